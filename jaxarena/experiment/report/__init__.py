"""One page about one run, `report.html`, that needs no network and no other file."""

from jaxarena.experiment.report.page import write_report as write_report
