"""Background jobs during training: one at a time, with their errors reported."""

import threading
from collections.abc import Callable


class Background:
    """Runs a job in a thread; use it as a context manager, which waits for the job on exit."""

    def __init__(self) -> None:
        self._job: tuple[threading.Thread, threading.Event] | None = None
        self._error: BaseException | None = None

    def submit(self, job: Callable[[], object]) -> None:
        """Wait for the previous job, then start this one. Raises the previous job's error instead of starting."""
        self.wait()
        done = threading.Event()
        thread = threading.Thread(target=self._run, args=(job, done), name="farcluss-background")
        self._job = thread, done
        thread.start()

    def wait(self) -> None:
        """Wait for the job. Raises its error, once."""
        if self._job is not None:
            thread, done = self._job
            done.wait()  # first, because an interrupted `join` marks the thread as ended
            thread.join()
            self._job = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def __enter__(self) -> "Background":
        """Return self."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for the job. An exception from the block takes precedence over the job's."""
        try:
            self.wait()
        except Exception:
            if kind is None:
                raise

    def _run(self, job: Callable[[], object], done: threading.Event) -> None:
        try:
            job()
        except BaseException as error:
            self._error = error
        finally:
            done.set()
