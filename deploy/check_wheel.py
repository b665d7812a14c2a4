"""Check that a wheel holds every file that the package needs: `python deploy/check_wheel.py dist/*.whl`."""

import sys
import zipfile
from pathlib import Path

#: Patterns of files in the source tree, and what stands before their path in the wheel.
WANTED = {
    "jaxarena/**/*.py": "",
    "jaxarena/experiment/report/*.*": "",
    "jaxarena/presets/*.yaml": "",
    "jaxarena/data/*.parquet": "",
    "jaxarena/data/*.md": "",
    "bridges/**/*.py": "",
    "configs/*.yaml": "jaxarena/",
}


def missing(wheel: Path, source: Path) -> list[str]:
    """Files of the source tree that the wheel lacks."""
    inside = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        f"{prefix}{path.relative_to(source).as_posix()}"
        for pattern, prefix in WANTED.items()
        for path in source.glob(pattern)
    }
    return sorted(wanted - inside)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python deploy/check_wheel.py WHEEL")
    if lacking := missing(Path(sys.argv[1]), Path(__file__).resolve().parents[1]):
        sys.exit(f"missing in the wheel: {', '.join(lacking)}")
    print("the wheel holds every file")
