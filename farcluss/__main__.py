"""`python -m farcluss`, and so `accelerate launch -m farcluss`."""

from farcluss.cli import main

if __name__ == "__main__":
    main()
