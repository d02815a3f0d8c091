"""`python -m hpc_yolo`, for srun and torchrun."""

from hpc_yolo.cli.main import main

if __name__ == "__main__":
    main()
