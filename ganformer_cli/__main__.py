"""``python -m ganformer_cli`` is ``ganformer``."""

from ganformer_cli.cli.main import main

if __name__ == "__main__":
    main()
