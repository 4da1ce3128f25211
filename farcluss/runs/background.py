"""Work that goes on beside the training: one job at a time, whose error is not lost."""

import threading
from collections.abc import Callable


class Background:
    """Runs a job in a thread; use it as a context manager, which does not leave before the job is done."""

    def __init__(self) -> None:
        self._job: tuple[threading.Thread, threading.Event] | None = None
        self._error: BaseException | None = None

    def submit(self, job: Callable[[], object]) -> None:
        """Start a job when the one before is done. Raises that one's error, and then starts nothing."""
        self.wait()
        done = threading.Event()
        thread = threading.Thread(target=self._run, args=(job, done), name="farcluss-background")
        self._job = thread, done
        thread.start()

    def wait(self) -> None:
        """Until the job is done. Raises its error, once."""
        if self._job is not None:
            thread, done = self._job
            done.wait()  # first, as `join` takes a thread for ended once it has been interrupted
            thread.join()
            self._job = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def __enter__(self) -> "Background":
        """Nothing is started yet."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait. An error that is under way says more than the job's."""
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
