"""The style sheet of a report: light, dark and printed, on narrow and wide screens."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f6f4; --surface: #fff; --text: #1d1d1b; --dim: #5f5e58; --grid: #e3e2dc; --edge: #dddcd5;
  --queued: #b9cbe4; --running: #2a74d0; --failed: #d8403f; --ready: #e0a526; --downloading: #17a673;
  --waiting: #c8c3b6; --merging: #6a51c7; --merged: #ecebf5; --counted: #a9a79e; --publishing: #b8559b;
  --other: #8f8d84; --limit: #b4461c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #151514; --surface: #1f1f1d; --text: #f1f0ec; --dim: #b1afa6; --grid: #34332f; --edge: #3a3935;
    --queued: #42597a; --running: #4b93ec; --failed: #ee5f5d; --ready: #d69a1d; --downloading: #22b883;
    --waiting: #6b675d; --merging: #9580ee; --merged: #2b2a38; --counted: #77756c; --publishing: #d174b5;
    --other: #8f8d84; --limit: #f08a5d;
  }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px 16px; max-width: 1320px; background: var(--page); color: var(--text);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { margin: 0; font-size: 24px; overflow-wrap: anywhere; }
h2 { margin: 0 0 4px; font-size: 16px; }
.about, section > p, footer { margin: 0 0 8px; color: var(--dim); font-size: 13px; }
header { position: relative; }
.status { float: right; margin: 4px 0 0 12px; padding: 1px 10px; border: 1px solid currentColor; border-radius: 99px;
  font-size: 13px; color: var(--dim); }
.status.complete { color: var(--downloading); } .status.unfinished { color: var(--failed); }
main { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 14px; margin: 14px 0; }
section, .tiles div { padding: 14px 16px; background: var(--surface); border: 1px solid var(--edge);
  border-radius: 8px; }
section { min-width: 0; break-inside: avoid; }
.wide, .sentences, .tiles { grid-column: 1 / -1; }
.sentences p { margin: 0 0 6px; font-size: 17px; color: var(--text); }
.sentences p:last-child { margin: 0; }
.tiles { display: grid; grid-template-columns: repeat(6, minmax(0, 1fr)); gap: 14px; margin: 0; }
.option { white-space: nowrap; }
.tiles div { padding: 10px 14px; }
dt { color: var(--dim); font-size: 13px; }
dd { margin: 0; font-size: 22px; font-weight: 600; line-height: 1.25; }
dd.more { color: var(--dim); font-size: 12px; font-weight: 400; }
svg { display: block; width: 100%; }
.plot { display: grid; grid-template-columns: auto minmax(0, 1fr); column-gap: 8px; margin-top: 14px; }
.y { position: relative; min-width: 42px; }
.wide .y { min-width: 82px; }
.y span { position: absolute; right: 0; transform: translateY(50%); white-space: nowrap; }
.x { position: relative; grid-column: 2; height: 20px; }
.x span { position: absolute; top: 3px; transform: translateX(-50%); white-space: nowrap; }
.x .first { transform: none; } .x .last { transform: translateX(-100%); }
.x span, .y span { color: var(--dim); font-size: 12px; line-height: 1.2; font-variant-numeric: tabular-nums; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 8px 0 0; padding: 0; list-style: none;
  color: var(--dim); font-size: 13px; }
.legend b { color: var(--text); font-weight: 600; }
.legend i { display: inline-block; width: 10px; height: 10px; margin-right: 6px; border-radius: 2px; }
i.limit { height: 2px; margin-bottom: 3px; width: 14px; }
i.merged { outline: 1px solid var(--edge); }
.grid { stroke: var(--grid); stroke-width: 1; vector-effect: non-scaling-stroke; }
.run { stroke: var(--text); stroke-width: 1; stroke-dasharray: 3 3; vector-effect: non-scaling-stroke; }
.line { fill: none; stroke: var(--limit); stroke-width: 1.5; vector-effect: non-scaling-stroke; }
.area { fill-opacity: 0.85; }
.tip { fill: transparent; }
.tip:hover { fill: var(--text); fill-opacity: 0.1; }
.queued { fill: var(--queued); } .running { fill: var(--running); } .failed { fill: var(--failed); }
.ready { fill: var(--ready); } .downloading { fill: var(--downloading); } .waiting { fill: var(--waiting); }
.merging { fill: var(--merging); } .merged { fill: var(--merged); } .counted { fill: var(--counted); }
.publishing { fill: var(--publishing); } .other { fill: var(--other); }
i.queued { background: var(--queued); } i.running { background: var(--running); }
i.failed { background: var(--failed); } i.ready { background: var(--ready); }
i.downloading { background: var(--downloading); }
i.waiting { background: var(--waiting); } i.merging { background: var(--merging); }
i.merged { background: var(--merged); } i.counted { background: var(--counted); } i.limit { background: var(--limit); }
i.publishing { background: var(--publishing); } i.other { background: var(--other); }
.table { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th { color: var(--dim); font-weight: 400; }
th, td { padding: 4px 12px 4px 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--grid); }
td { white-space: nowrap; }
td.long { white-space: normal; overflow-wrap: anywhere; min-width: 150px; }
@media (max-width: 900px) {
  main { grid-template-columns: minmax(0, 1fr); }
  body { padding: 14px 10px; }
  .sentences p { font-size: 16px; }
  .tiles { grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 10px; }
}
@media (max-width: 560px) {
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .wide .y { min-width: 68px; }
  .x span, .y span { font-size: 11px; }
}
@media print {
  :root { --page: #fff; --surface: #fff; --text: #000; --dim: #444; --grid: #ddd; --edge: #bbb; }
  body { max-width: none; padding: 0; font-size: 12px; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
