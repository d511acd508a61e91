"""`python -m proxy` is the command `tidegate`."""

from .cli import main

if __name__ == "__main__":
    main()
