"""The command line as a module, which is how ``accelerate launch`` and ``torchrun`` start it."""

from delrec_lite.cli.app import main

if __name__ == "__main__":
    main()
