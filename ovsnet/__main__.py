"""`python -m ovsnet`: the same as the `ovsnet` command."""

from ovsnet.cli.main import main

if __name__ == "__main__":
    main()
