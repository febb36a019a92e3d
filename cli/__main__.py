"""`python -m tofe_export.cli`: the same as `tofe-export`."""

from tofe_export.cli import main

if __name__ == "__main__":
    main()
