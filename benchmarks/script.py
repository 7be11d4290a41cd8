"""A typical script, for comparison: one month and one file at a time, with the csv module and a set.

Usage: `python script.py OUT START_YEAR MONTHS`, with the same environment variables for URL and token as bulkpull.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import time
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

FIELDS = "id,signer_id,created_time,event_type,connection_data.remote_address,connection_data.page_title"
URL, TOKEN = os.environ["BULKPULL_BASE_URL"], os.environ["BULKPULL_TOKEN"]


def ask(method: str, path: str) -> dict[str, object]:
    request = Request(URL + path, method=method, headers={"Authorization": f"Bearer {TOKEN}"})  # noqa: S310
    with urlopen(request) as answer:  # noqa: S310
        data: dict[str, object] = json.load(answer)["data"]
        return data


def month(number: int) -> str:
    return f"{int(sys.argv[2]) + number // 12}-{number % 12 + 1:02d}-01"


seen: set[str] = set()
with open(sys.argv[1], "w", newline="", encoding="utf-8") as out:  # noqa: PTH123
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(FIELDS.split(","))
    for number in range(int(sys.argv[3])):
        expression = f"created_time>={month(number)} and created_time<{month(number + 1)}"
        query = urlencode({"filter": expression, "fields": FIELDS}, quote_via=quote)
        task = ask("POST", f"/tasks/export/activity?{query}")
        while task["status"] != "success":
            time.sleep(5)
            task = ask("GET", f"/tasks/export/{task['id']}")
        for link in task["links"]:  # type: ignore[attr-defined]
            with urlopen(link) as answer:  # noqa: S310
                rows = csv.reader(io.TextIOWrapper(answer, encoding="utf-8", newline=""))
                next(rows)
                for row in rows:
                    if row[0] not in seen:
                        seen.add(row[0])
                        writer.writerow(row)
