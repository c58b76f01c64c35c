"""`report.json` of an output: everything that the report tells, pictures included, to make pages from it again.

Written beside `report.html` by `result`; read by `kubooth report` and `kubooth compare`. Pictures are kept as the page
has them: small ones exactly, larger ones reduced.
"""

from __future__ import annotations

from functools import cache

from pydantic import TypeAdapter, ValidationError

from kubooth_trainer.errors import ConfigError
from kubooth_trainer.report import ReportData

REPORT_DATA = "report.json"


def report_to_json(data: ReportData) -> bytes:
    """The content of `report.json`."""
    return _adapter().dump_json(data)


def report_from_json(content: bytes, *, where: str) -> ReportData:
    """The inverse. Raises ConfigError, naming `where`, if it is not what this release writes."""
    try:
        return _adapter().validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"{where}: is no report of this release of Kubooth ({place}: {first['msg']}): run the job again to write it"
        ) from error


@cache
def _adapter() -> TypeAdapter[ReportData]:
    return TypeAdapter(ReportData)
