"""How a report looks: in light and dark, on a desk and on a phone, on paper."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --paper: #f5f6f8; --card: #ffffff; --edge: #dde1e7;
  --accent: 39 105 176; --bad: #b3261e; --hit: #ffffff;
  --c0: #2769b0; --c1: #d9583b; --c2: #22863a; --c3: #b08800; --c4: #1aa5c4; --c5: #9c2f78; --c6: #e0812a;
  --c7: #00897b;
  --c8: #6d4fc2; --c9: #7c7c2b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #9aa5b4; --paper: #12161c; --card: #1b212a;
  --edge: #313a46; --accent: 92 160 232; --bad: #ff8a80; --hit: #0d1117;
  --c0: #6aaef5; --c1: #ff8f75; --c2: #63c97a; --c3: #e3c34a; --c4: #5fd4ee; --c5: #e58ac6; --c6: #f7b267;
  --c7: #4fd1c0;
  --c8: #b39dff; --c9: #c5c66a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
main, header { max-width: 1240px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 28px; }
h1 { font-size: 1.7rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 36px 0 10px; }
h3 { font-size: .95rem; margin: 0 0 6px; overflow-wrap: anywhere; }
p { margin: 6px 0; }
nav { display: flex; flex-wrap: wrap; gap: 4px 14px; margin-top: 12px; }
a { color: rgb(var(--accent)); text-decoration: none; }
a:hover { text-decoration: underline; }
.soft { color: var(--soft); }
.bad { color: var(--bad); font-weight: 600; }
.grid-of { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(min(340px, 100%), 1fr)); }
.tiles { display: grid; gap: 10px; margin-top: 18px; grid-template-columns: repeat(auto-fill, minmax(148px, 1fr)); }
.card, .tile { background: var(--card); border: 1px solid var(--edge); border-radius: 10px; padding: 12px 14px;
  min-width: 0; }
.tile b { display: block; font-size: 1.35rem; line-height: 1.25; overflow-wrap: anywhere; }
.tile b.words { font-size: 1rem; }
.card + .card.apart, .grid-of + .card.apart { margin-top: 14px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { text-align: right; padding: 4px 10px; border-bottom: 1px solid var(--edge); white-space: nowrap;
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child, .left { text-align: left; }
td.wide { white-space: normal; min-width: 220px; overflow-wrap: anywhere; }
tr:last-child td { border-bottom: 0; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 12px; }
svg .grid { stroke: var(--edge); stroke-width: 1; }
svg .axis { stroke: var(--soft); stroke-width: 1; fill: none; }
svg .mark { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 3 4; }
svg .curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .thin { stroke-width: 1; }
svg.map rect { fill: rgb(var(--accent)); }
svg.map { max-width: 260px; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 12px; margin-top: 6px; font-size: .82rem; color: var(--soft); }
.legend span, .key { overflow-wrap: anywhere; }
.legend i, .key i { display: inline-block; width: 12px; height: 3px; margin-right: 5px; vertical-align: middle;
  border-radius: 2px; }
.bar { display: flex; height: 26px; border-radius: 6px; overflow: hidden; background: var(--edge); margin: 4px 0 8px; }
.bar i { display: block; min-width: 0; }
.counts td:last-child { width: 55%; }
.counts i { display: block; height: 12px; margin-top: 5px; border-radius: 3px; background: rgb(var(--accent));
  min-width: 1px; }
.confusion td, .confusion th { text-align: center; border: 1px solid var(--edge); padding: 3px 6px; min-width: 46px; }
.confusion td { background: rgb(var(--accent) / var(--s)); }
.confusion .hit { color: var(--hit); }
.confusion th:first-child { text-align: right; }
.photo { width: 100%; height: auto; display: block; border-radius: 6px; }
details { margin-top: 8px; }
summary { cursor: pointer; color: rgb(var(--accent)); }
pre { overflow-x: auto; margin: 8px 0 0; font: 12.5px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }
footer { max-width: 1240px; margin: 36px auto; padding: 0 20px; color: var(--soft); font-size: .85rem; }
@media (max-width: 560px) { main, header, footer { padding-left: 12px; padding-right: 12px; } h1 { font-size: 1.35rem; }
  .tiles { grid-template-columns: repeat(2, 1fr); } .card { padding: 10px; } .counts td:last-child { width: 35%; } }
@media print { body { background: #fff; } .card, .tile { break-inside: avoid; } nav { display: none; } }
"""

COLOURS = "".join(
    f"svg .curve.c{number}{{stroke:var(--c{number})}}svg .dot.c{number}{{fill:var(--c{number})}}"
    f"i.c{number}{{background:var(--c{number})}}"
    for number in range(10)
)
