"""The style sheet of the page: from a phone's width to a desktop's, light and dark."""

STYLE = """
:root {
  color-scheme: light dark;
  --ground: #f7f7f5; --surface: #ffffff; --text: #1b1d21; --muted: #5b616b; --rule: #e2e2de;
  --accent: #1f56c3; --warn: #8a5200; --warn-ground: #fff6e5; --warn-rule: #f0d9ae;
  --right: 43 95 217; --wrong: 214 74 46; --shade: rgb(0 0 0 / .16);
  --series-0: #1f5fd0; --series-1: #cf4a12; --series-2: #0b8457; --series-3: #8f3fb0;
  --series-4: #a87300; --series-5: #0b839f; --series-6: #c0306a; --series-7: #5d6470; --series-lightness: 40%;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #121417; --surface: #1a1d21; --text: #e8e9ea; --muted: #a3a9b3; --rule: #30353c;
    --accent: #8ab2ff; --warn: #f2c879; --warn-ground: #2a2214; --warn-rule: #57431d;
    --right: 70 112 224; --wrong: 206 78 56; --shade: rgb(255 255 255 / .2);
    --series-0: #7aa9ff; --series-1: #ff9561; --series-2: #4bcf9f; --series-3: #d59cf0;
    --series-4: #e3b84a; --series-5: #5bc8e4; --series-6: #ff8bb6; --series-7: #abb2bd; --series-lightness: 70%;
  }
}
*, *::before, *::after { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; scroll-padding-top: 1rem; }
body {
  margin: 0 auto; padding: 2rem 1rem 4rem; max-width: 78rem; background: var(--ground); color: var(--text);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: break-word;
}
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .35rem; letter-spacing: -.01em; }
h2 { font-size: 1.35rem; line-height: 1.25; margin: 0 0 1rem; letter-spacing: -.005em; }
h3 { font-size: 1.05rem; line-height: 1.3; margin: 0 0 .6rem; }
figcaption { max-width: 46rem; }
p { margin: 0 0 .9rem; max-width: 46rem; }
a { color: var(--accent); text-underline-offset: .15em; }
a:focus-visible, .scroll:focus-visible, summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
header { margin: 0 0 1.75rem; }
header p, .note, .small, figcaption { color: var(--muted); }
.note, figcaption { font-size: .875rem; line-height: 1.45; }
.small { display: block; font-size: .8125rem; line-height: 1.35; }
nav { font-size: .9rem; line-height: 1.4; }
nav h2 { font-size: .75rem; letter-spacing: .06em; text-transform: uppercase; color: var(--muted); margin: 0 0 .5rem; }
nav ul { list-style: none; margin: 0; padding: 0; }
nav li { margin: .3rem 0; }
nav ul ul { display: flex; flex-wrap: wrap; gap: .1rem .9rem; margin: .1rem 0 .5rem .9rem; }
nav a { color: inherit; text-decoration: none; display: inline-block; padding: .1rem 0; }
nav a:hover { color: var(--accent); text-decoration: underline; }
main > section {
  background: var(--surface); border: 1px solid var(--rule); border-radius: .75rem; padding: 1.25rem 1rem;
  margin: 0 0 1.5rem; min-width: 0;
}
section > :last-child, .scroll > :last-child { margin-bottom: 0; }
section section { margin: 2rem 0 0; }
.columns > nav { margin: 0 0 1.75rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(14.5rem, 1fr)); gap: 1rem; margin: 0 0 1.5rem; }
.card { border: 1px solid var(--rule); border-left: .3rem solid var(--series); border-radius: .5rem; }
.card { padding: .8rem 1rem; }
.card p { margin: 0; }
.card .name { font-weight: 600; overflow-wrap: anywhere; }
.card .figure { font-size: 1.75rem; line-height: 1.3; font-weight: 650; font-variant-numeric: tabular-nums; }
.notes { margin: 0 0 1.5rem; padding: .8rem 1rem .8rem 2rem; border-radius: .5rem; font-size: .9375rem; }
.notes { color: var(--warn); background: var(--warn-ground); border: 1px solid var(--warn-rule); }
.notes li { margin: .2rem 0; max-width: 46rem; }
.scroll { overflow-x: auto; margin: 0 0 1.25rem; -webkit-overflow-scrolling: touch; }
/* A shade where more lies beyond the edge; covers that scroll along hide it at the ends. */
.scroll {
  background:
    linear-gradient(to right, var(--surface) 40%, transparent) 0 0 / 2.5rem 100% no-repeat local,
    linear-gradient(to left, var(--surface) 40%, transparent) 100% 0 / 2.5rem 100% no-repeat local,
    linear-gradient(to right, var(--shade), transparent) 0 0 / .75rem 100% no-repeat,
    linear-gradient(to left, var(--shade), transparent) 100% 0 / .75rem 100% no-repeat;
}
.scroll:has(.tall) { max-height: 32rem; overflow-y: auto; }
table { border-collapse: separate; border-spacing: 0; font-size: .9375rem; font-variant-numeric: tabular-nums; }
figure > .scroll { margin-top: .6rem; }
th, td { padding: .4rem .9rem .4rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--rule); }
thead th { font-weight: 600; vertical-align: bottom; border-bottom: 2px solid var(--rule); }
tbody th { font-weight: 500; position: sticky; left: 0; background: var(--surface); max-width: 18rem; }
tbody th.group { position: static; background: none; color: var(--muted); }
tbody th.group { font-size: .8125rem; font-weight: 600; padding-top: 1.1rem; }
.figures td { white-space: nowrap; }
.class { display: inline-block; width: max-content; max-width: 9rem; }
.keys td { min-width: 5rem; max-width: 22rem; }
.keys th, .keys td { font-size: .875rem; }
.keys tbody th { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .8125rem; }
.differs { font-weight: 650; }
.confusion { font-size: .8125rem; }
.confusion th, .confusion td { padding: .2rem; text-align: center; vertical-align: middle; border: 0; }
.confusion td { min-width: 2.6rem; height: 2.1rem; border: 1px solid var(--surface); border-radius: .3rem; }
.confusion tbody th { text-align: right; padding-right: .6rem; white-space: nowrap; }
.confusion thead th { vertical-align: bottom; border-bottom: 0; }
.confusion thead th span { writing-mode: vertical-rl; transform: rotate(180deg); white-space: nowrap; }
.right { background: rgb(var(--right) / calc(.7 * var(--share))); }
.wrong { background: rgb(var(--wrong) / calc(.7 * var(--share))); }
.bar { display: inline-block; vertical-align: middle; width: 4rem; height: .5rem; margin-right: .6rem; }
.bar { border-radius: 1rem; }
.bar { background: linear-gradient(to right, rgb(var(--right)) calc(100% * var(--share)), var(--rule) 0); }
.charts { display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); }
figure { margin: 0; min-width: 0; }
figure + p, .charts + figure, .charts + p { margin-top: 1.25rem; }
.chart figcaption { color: var(--text); font-weight: 600; margin: 0 0 .35rem; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-size: 11.5px; fill: var(--muted); font-variant-numeric: tabular-nums; }
.grid { stroke: var(--rule); stroke-width: 1; }
.axis { stroke: var(--muted); stroke-width: 1; }
.line { fill: none; stroke: var(--series); stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.line.dashed { stroke-dasharray: 6 4; stroke-width: 1.6; }
.line.dotted { stroke-dasharray: 1 4; stroke-width: 2.2; }
.line.faint { stroke-width: 1.2; opacity: .55; }
.mark { fill: var(--series); stroke: var(--surface); stroke-width: 1.5; }
.mark.dashed, .mark.dotted { fill: var(--surface); stroke: var(--series); }
.mark.faint { opacity: .55; }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.25rem; margin: 0 0 1rem; padding: 0; list-style: none; }
.legend { font-size: .9rem; }
.legend li { display: flex; align-items: center; }
.legend svg { flex: none; width: 2rem; height: .75rem; margin-right: .45rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(7.6rem, 1fr)); gap: 1.1rem .9rem; }
.pictures { margin: 0 0 1rem; }
.pictures img, .maps img { display: block; width: 100%; height: auto; border-radius: .35rem; background: var(--rule); }
.pictures figcaption { margin-top: .35rem; font-size: .8125rem; overflow-wrap: anywhere; }
.pictures strong, .maps strong { color: var(--text); font-weight: 600; }
.maps { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 1.5rem; }
.maps { margin: 0 0 1rem; }
.maps > figure > div { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: .4rem; }
.maps figcaption { margin: 0 0 .35rem; }
.maps span { display: block; font-size: .75rem; line-height: 1.3; color: var(--muted); margin-top: .25rem; }
.tiles { display: block; max-width: 100%; height: auto; margin: 0 0 .6rem; }
pre { margin: 0 0 1rem; padding: .9rem 1rem; border: 1px solid var(--rule); border-radius: .5rem; }
pre { background: var(--ground); }
pre { overflow-x: auto; font: .8125rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
details { margin: 0 0 1rem; }
summary { cursor: pointer; font-weight: 500; padding: .3rem 0; }
@media (min-width: 64rem) {
  body { padding: 3rem 2rem 6rem; }
  .columns { display: grid; grid-template-columns: 12.5rem minmax(0, 1fr); gap: 0 2.5rem; align-items: start; }
  .columns > nav { position: sticky; top: 1.5rem; max-height: calc(100vh - 3rem); overflow-y: auto; }
  nav ul ul { display: block; }
  main > section { padding: 2rem; }
  .figures td { padding-right: 1.6rem; }
  .bar { width: 7rem; }
}
@media print { body { background: none; } .columns > nav { display: none; } main > section { border: 0; padding: 0; } }
"""
