"""The page's style sheet: one set of colours for light, one for dark."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--page:#fcfcfb;--ink:#1b1b1a;--soft:#5f5e5a;--line:#dedcd6;--ours:#2a78d6;--stock:#a3a19a;
--behind:#b9d4f3;--raw:#5f5e5a;--limit:#c2410c;--warn:#9a3412}
@media (prefers-color-scheme:dark){:root{--page:#191918;--ink:#f1f0ec;--soft:#b3b1aa;--line:#3c3b38;--ours:#5b9df0;
--stock:#7d7b75;--behind:#274a75;--raw:#b3b1aa;--limit:#fb923c;--warn:#fdba74}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:860px;margin:0 auto;padding:32px 20px 64px}
h1{font-size:26px;line-height:1.2;margin:0 0 4px}
h2{font-size:20px;margin:40px 0 4px}
h3{font-size:15px;margin:24px 0 4px}
.sub{color:var(--soft);margin:0 0 12px}
.key{color:var(--soft);font-size:13px}
.warning{color:var(--warn);font-weight:600}
code{font-size:13px;overflow-wrap:anywhere}
dt{margin-top:8px}dd{margin:0;color:var(--soft)}
ul{padding-left:18px}li{margin:4px 0}
svg{display:block;width:100%;max-width:820px;height:auto;font:12px system-ui,sans-serif}
svg text{fill:var(--ink)}
svg .heading{font-weight:600;font-size:13px}
svg .label{text-anchor:end;fill:var(--soft)}
svg .value{font-variant-numeric:tabular-nums}
svg .base{stroke:var(--line)}
svg .ours{fill:var(--ours)}svg .stock{fill:var(--stock)}svg .behind{fill:var(--behind)}svg .raw{fill:var(--raw)}
svg .whisker{stroke:var(--ink);fill:none}
svg .mark{stroke:var(--limit);stroke-width:2}
.swatch{display:inline-block;width:11px;height:11px;border-radius:2px;margin:0 6px 0 14px;vertical-align:-1px}
.swatch:first-child{margin-left:0}
.swatch.ours{background:var(--ours)}.swatch.stock{background:var(--stock)}.swatch.behind{background:var(--behind)}
.swatch.limit{background:var(--limit);width:3px}
details{margin:8px 0}summary{cursor:pointer;color:var(--soft)}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:4px 12px 4px 0;text-align:left;white-space:nowrap;border-bottom:1px solid var(--line)}
th{color:var(--soft);font-weight:500}
.number{text-align:right}
"""
