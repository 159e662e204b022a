"""``python -m durabert`` is ``durabert``."""

from durabert.cli.app import main

if __name__ == "__main__":
    main()
