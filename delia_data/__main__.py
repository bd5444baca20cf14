"""`python -m delia_data`: the same as the command `delia`."""

from delia_data.cli import main

if __name__ == "__main__":
    main()
