"""Makes `us_daily.parquet` from the `stocks.csv.gz` of the package bokeh_sampledata 2026.1.

Run `python -m jaxarena.data.vendor_us_daily [stocks.csv.gz]`; it refuses any other source file.
`us_daily.md` says what the data are and where they come from.
"""

import hashlib
import importlib.util
import sys
from pathlib import Path

import polars as pl

from jaxarena.data.sources import VENDORED, load

SOURCE_SHA256 = "5abadf99b2d394f920120a27de6f0df129859d71d4cfb0bf661bcc99446ab1fd"


def convert(source: Path) -> pl.DataFrame:
    """The rows of `stocks.csv.gz`, typed and with our column names, no value changed.

    Raises:
        ValueError: `source` is not the expected file.
    """
    found = hashlib.sha256(source.read_bytes()).hexdigest()
    if found != SOURCE_SHA256:
        raise ValueError(f"{source}: sha256 is {found}, expected {SOURCE_SHA256}; install bokeh_sampledata==2026.1")
    prices = dict.fromkeys(("Open", "High", "Low", "Close", "Adj Close"), pl.Float64)
    table = pl.read_csv(source, schema_overrides=prices | {"Date": pl.Date, "Volume": pl.Int64})
    table = table.rename({name: name.lower().replace(" ", "_") for name in table.columns})
    return table.rename({"ticker": "symbol"}).sort("symbol", "date")


def installed_source() -> Path:
    """Where the installed package keeps the file.

    Raises:
        ValueError: the package is not installed.
    """
    spec = importlib.util.find_spec("bokeh_sampledata")
    if spec is None or spec.origin is None:
        raise ValueError("bokeh_sampledata is not installed; pip install bokeh_sampledata==2026.1, or name the file")
    return Path(spec.origin).parent / "_data" / "stocks.csv.gz"


def main() -> None:
    """Write the file, check that it loads and print its checksum."""
    source = Path(sys.argv[1]) if sys.argv[1:] else installed_source()
    target = VENDORED["us_daily"]
    convert(source).write_parquet(target, compression="zstd", compression_level=22)
    history = load("us_daily", ["AAPL", "IBM", "MSFT", "GOOG", "FB"])
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    print(f"{target}: {target.stat().st_size} bytes, {len(history.dates)} common sessions, sha256 {digest}")


if __name__ == "__main__":
    main()
