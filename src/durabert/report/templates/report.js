"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const MOST_CHOSEN = 8;
const GREY_POINTS = 3000;
let chosen = [...data.chosen];

// Tables: a click on a head sorts by it, missing values last.
function compare(one, other) {
  if (one === null || other === null) return (one === null) - (other === null);
  const numbers = [Number(one), Number(other)];
  const both = numbers.every((value) => !Number.isNaN(value));
  return both ? numbers[0] - numbers[1] : one.localeCompare(other, undefined, { numeric: true });
}

function keyOf(row, column) {
  const cell = row.cells[column];
  return cell.tagName === "TH" ? cell.textContent : cell.getAttribute("data-key");
}

function sort(table, head) {
  const ascending = head.getAttribute("aria-sort") !== "ascending";
  const column = head.cellIndex;
  const rows = [...table.tBodies[0].rows].map((row) => [keyOf(row, column), row]);
  const sign = ascending ? 1 : -1;
  rows.sort(([one], [other]) => {
    const missing = one === null || other === null;
    return missing ? compare(one, other) : sign * compare(one, other);
  });
  table.tHead.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const button of table.tHead.querySelectorAll("button")) {
    const head = button.closest("th");
    button.addEventListener("click", () => sort(table, head));
    const first = table.tBodies[0].rows[0]?.cells[head.cellIndex];
    head.classList.toggle("number", Boolean(first?.classList.contains("number")));
  }
}

const filter = document.getElementById("filter");
if (filter) {
  const rows = [...document.getElementById("runs-table").tBodies[0].rows];
  filter.addEventListener("input", () => {
    const wanted = filter.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      row.hidden = !row.querySelector("th").textContent.toLowerCase().includes(wanted);
      shown += row.hidden ? 0 : 1;
    }
    document.getElementById("shown").textContent = wanted ? `${shown} of ${rows.length}` : "";
  });
}

function openTarget() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target && target.tagName === "DETAILS") target.open = true;
}
addEventListener("hashchange", openTarget);
openTarget();

// Charts.
function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function theme() {
  const [ink, faint, line] = [colour("--ink"), colour("--faint"), colour("--line")];
  const axis = { labelColor: faint, titleColor: faint, gridColor: line, domainColor: line, tickColor: line };
  return {
    background: "transparent",
    font: getComputedStyle(document.body).fontFamily,
    view: { stroke: "transparent" },
    axis: { ...axis, labelFontSize: 11, titleFontSize: 11, titleFontWeight: "normal" },
    legend: { labelColor: ink, titleColor: faint, labelFontSize: 11, labelLimit: 220, symbolOpacity: 1, orient: "bottom", columns: 3 },
  };
}

function runScale() {
  return { domain: chosen.map((run) => data.runs[run]), range: chosen.map((_, place) => colour(`--run-${place + 1}`)) };
}

function dashScale() {
  return { domain: chosen.map((run) => data.runs[run]), range: chosen.map((_, place) => (place < 4 ? [1, 0] : [5, 3])) };
}

function chosenRows(source, field) {
  return chosen.flatMap((run) => {
    const columns = data[source][run];
    return columns.step.map((step, place) => ({ run: data.runs[run], step, value: columns[field][place] }));
  });
}

// All grey lines are one path with gaps: a group for each of 200 runs takes a second.
function greyRows(source, field) {
  const stride = Math.ceil(data[source].reduce((sum, columns) => sum + columns.step.length, 0) / GREY_POINTS);
  return data[source].flatMap((columns, run) => {
    if (chosen.includes(run)) return [];
    const last = columns.step.length - 1;
    const rows = columns.step.flatMap((step, place) => ((last - place) % stride ? [] : [{ step, value: columns[field][place] }]));
    return [...rows, { step: null, value: null }];
  });
}

function lines(chart) {
  const encoding = {
    x: { field: "step", type: "quantitative", title: chart.by, scale: { domainMin: 0 }, axis: { tickCount: 6, tickMinStep: 1, format: "~s" } },
    y: { field: "value", type: "quantitative", title: null, scale: { zero: false }, axis: { tickCount: 5, format: chart.format } },
  };
  const run = { field: "run", type: "nominal" };
  const coloured = { ...run, scale: runScale(), title: null, legend: chosen.length > 1 ? {} : null };
  const dashed = chosen.length > 4 ? { strokeDash: { ...run, scale: dashScale(), title: null } } : {};
  const few = chosen.length === data.runs.length && data.runs.length <= 4;
  const layer = [];
  if (chosen.length < data.runs.length) {
    layer.push({
      data: { values: greyRows(chart.source, chart.field) },
      mark: { type: "line", strokeWidth: 1, color: colour("--other"), opacity: 0.7, order: false },
    });
  }
  if (few && chart.raw) {
    layer.push({
      data: { values: chosenRows(chart.source, chart.raw) },
      mark: { type: "line", strokeWidth: 1, opacity: 0.3, clip: true },
      encoding: { color: coloured },
    });
  }
  layer.push({ mark: { type: "line", strokeWidth: 2, point: chart.points && { size: 30 } }, encoding: { color: coloured, ...dashed } });
  layer.push({
    params: [{ name: "near", select: { type: "point", nearest: true, on: "pointermove", clear: "pointerout" } }],
    mark: { type: "point", filled: true, size: 60 },
    encoding: {
      color: coloured,
      opacity: { condition: { param: "near", empty: false, value: 1 }, value: 0 },
      tooltip: [{ field: "run" }, { field: "step", title: chart.by, format: ",d" }, { field: "value", title: chart.title, format: ".4g" }],
    },
  });
  return { height: 230, data: { values: chosenRows(chart.source, chart.field) }, encoding, layer };
}

const ENDS = { completed: "--good", running: "--busy", stopped: "--idle", failed: "--bad", died: "--run-4", "not at work": "--other" };

const CLOCK = { year: "%Y", month: "%b %Y", date: "%d %b", hours: "%H:%M", minutes: "%H:%M", seconds: "%H:%M:%S" };

function barStep(bars) {
  return Math.max(4, Math.min(22, 900 / bars));
}

function timeline() {
  const ends = Object.keys(ENDS).filter((end) => data.attempts.some((one) => one.end === end));
  const scale = { domain: ends, range: ends.map((end) => colour(ENDS[end])) };
  const y = { field: "run", type: "nominal", sort: null, title: null, axis: data.attempt_runs > 60 ? null : { labelLimit: 160, grid: false } };
  const moment = { type: "temporal", scale: { type: "utc" } };
  const layer = [
    {
      data: { values: data.attempts },
      mark: { type: "bar", height: { band: 0.7 }, minBandSize: 2 },
      encoding: {
        x: { ...moment, field: "from", title: "UTC", axis: { tickCount: 6, labelOverlap: true, format: CLOCK } },
        x2: { field: "to" },
        color: { field: "end", type: "nominal", scale, title: null },
        opacity: { condition: { test: "datum.end === 'not at work'", value: 0.45 }, value: 1 },
        tooltip: [
          { field: "run" }, { field: "what", title: "attempt" },
          { field: "from", type: "temporal", title: "from", format: "%Y-%m-%d %H:%M:%S" },
          { field: "to", type: "temporal", title: "to", format: "%Y-%m-%d %H:%M:%S" },
        ],
      },
    },
  ];
  if (data.checkpoints.length) {
    layer.push({
      data: { values: data.checkpoints },
      mark: { type: "tick", thickness: 1.5, color: colour("--paper"), height: { band: 0.45 } },
      encoding: { x: { ...moment, field: "time" }, tooltip: [{ field: "run" }, { field: "step", title: "checkpoint of step", format: ",d" }] },
    });
  }
  return { height: HEIGHTS.timeline(), encoding: { y }, layer };
}

const PARTS = ["data", "forward", "backward", "optimizer", "checkpoint", "model", "the rest"];

function profile() {
  const parts = PARTS.filter((part) => data.profile.some((one) => one.part === part));
  const scale = { domain: parts, range: parts.map((part) => (part === "the rest" ? colour("--other") : colour(`--run-${PARTS.indexOf(part) + 1}`))) };
  const runs = new Set(data.profile.map((one) => one.run)).size;
  return {
    height: HEIGHTS.profile(),
    data: { values: data.profile },
    transform: [{ calculate: `indexof(${JSON.stringify(PARTS)}, datum.part)`, as: "place" }],
    mark: { type: "bar", height: { band: 0.7 } },
    encoding: {
      y: { field: "run", type: "nominal", sort: null, title: null, axis: runs > 60 ? null : { labelLimit: 160 } },
      x: { field: "share", type: "quantitative", stack: "zero", title: "share of the time", axis: { format: "%" }, scale: { domainMax: 1 } },
      order: { field: "place" },
      color: { field: "part", type: "nominal", scale, title: null },
      tooltip: [{ field: "run" }, { field: "part" }, { field: "share", format: ".1%" }],
    },
  };
}

function reliability() {
  const names = [...new Set(data.reliability.map((one) => one.of))];
  const scale = { domain: names, range: names.map((_, place) => colour(`--run-${place + 1}`)) };
  const axis = { format: "%", tickCount: 5 };
  const unit = { domain: [0, 1] };
  return {
    height: 260,
    layer: [
      {
        data: { values: [{ at: 0 }, { at: 1 }] },
        mark: { type: "line", strokeDash: [4, 4], color: colour("--faint"), strokeWidth: 1 },
        encoding: { x: { field: "at", type: "quantitative", scale: unit, axis, title: "confidence" }, y: { field: "at", type: "quantitative", scale: unit, axis, title: "share that is right" } },
      },
      {
        data: { values: data.reliability },
        mark: { type: "line", point: { size: 35 } },
        encoding: {
          x: { field: "confidence", type: "quantitative" },
          y: { field: "accuracy", type: "quantitative" },
          color: { field: "of", type: "nominal", scale, title: null, legend: { columns: 1, labelLimit: 400 } },
          tooltip: [
            { field: "of", title: "evaluation" }, { field: "confidence", format: ".1%" },
            { field: "accuracy", title: "right", format: ".1%" }, { field: "rows", format: ",d" },
          ],
        },
      },
    ],
  };
}

function parallel() {
  const { axes, places, labels, ticks } = data.parallel;
  const rows = (place) => axes.map((axis, number) => ({ run: data.runs[place], axis, at: places[number][place], label: labels[number][place] }));
  const others = data.runs.map((_, place) => place).filter((place) => !chosen.includes(place));
  const grey = others.flatMap((place) => [...rows(place), { axis: axes[0], at: null }]);
  const run = { field: "run", type: "nominal" };
  // Where names do not fit side by side, their words are below each other.
  const room = document.getElementById("chart-parallel").clientWidth / axes.length;
  const words = room < 130 ? { labelExpr: "split(datum.label, ' ')", labelLimit: room - 4 } : { labelLimit: 130 };
  const x = { field: "axis", type: "nominal", sort: axes, title: null, scale: { type: "point", padding: 0.35 }, axis: { labelAngle: 0, orient: "top", offset: 12, domain: false, ticks: false, labelOverlap: false, ...words } };
  const y = { field: "at", type: "quantitative", axis: null, scale: { domain: [0, 1] } };
  const tooltip = [{ field: "run" }, { field: "axis", title: "setting" }, { field: "label", title: "value" }];
  return {
    height: 260,
    encoding: { x, y },
    layer: [
      { data: { values: axes.map((axis) => ({ axis })) }, mark: { type: "rule", color: colour("--faint") }, encoding: { y: { datum: 0 }, y2: { datum: 1 } } },
      { data: { values: grey }, mark: { type: "line", strokeWidth: 1, opacity: 0.6, color: colour("--other"), order: false } },
      { data: { values: chosen.flatMap(rows) }, mark: { type: "line", strokeWidth: 2, point: { size: 35 } }, encoding: { color: { ...run, scale: runScale(), title: null }, tooltip } },
      { data: { values: ticks }, mark: { type: "text", align: "left", dx: 6, fontSize: 11, color: colour("--ink"), stroke: colour("--card"), strokeWidth: 3, strokeOpacity: 0.8 }, encoding: { text: { field: "label" } } },
      { data: { values: ticks }, mark: { type: "text", align: "left", dx: 6, fontSize: 11, color: colour("--ink") }, encoding: { text: { field: "label" } } },
    ],
  };
}

function trials() {
  const ends = Object.keys(TRIAL_ENDS).filter((end) => data.history.some((one) => one.status === end));
  const scale = { domain: ends, range: ends.map((end) => colour(TRIAL_ENDS[end])) };
  const x = { field: "number", type: "quantitative", title: "trial", axis: { tickMinStep: 1, tickCount: 8, format: "d" }, scale: { nice: false, padding: 10 } };
  const y = { type: "quantitative", title: null, scale: { zero: false } };
  return {
    height: 230,
    data: { values: data.history },
    encoding: { x },
    layer: [
      { mark: { type: "line", interpolate: "step-after", strokeWidth: 2, color: colour("--ink") }, encoding: { y: { ...y, field: "best" } } },
      {
        mark: { type: "point", filled: true, size: 45, opacity: 0.9 },
        encoding: {
          y: { ...y, field: "value" },
          color: { field: "status", type: "nominal", scale, title: null },
          tooltip: [{ field: "run" }, { field: "status" }, { field: "epochs" }, { field: "value", format: ".4g" }, { field: "best", title: "best so far", format: ".4g" }],
        },
      },
    ],
  };
}

function importance() {
  const y = { field: "name", type: "nominal", sort: null, title: null, axis: { labelLimit: 160, domain: false, ticks: false } };
  const x = { field: "share", type: "quantitative", title: "share of the differences", axis: { format: "%", tickCount: 5 }, scale: { domainMin: 0, domainMax: 1 } };
  return {
    height: HEIGHTS.importance(),
    data: { values: data.importance },
    encoding: { x, y },
    layer: [
      { mark: { type: "bar", height: { band: 0.65 }, color: colour("--run-1") } },
      { mark: { type: "text", align: "left", dx: 5, fontSize: 11, color: colour("--ink") }, encoding: { text: { field: "share", format: ".0%" } } },
    ],
  };
}

const TRIAL_ENDS = { completed: "--good", running: "--busy", stopped: "--idle", failed: "--bad", cancelled: "--other" };
const HEIGHTS = {
  timeline: () => data.attempt_runs * barStep(data.attempt_runs),
  profile: () => {
    const runs = new Set(data.profile.map((one) => one.run)).size;
    return runs * barStep(runs);
  },
  importance: () => data.importance.length * 26,
};
const KINDS = { parallel, lines, timeline, profile, reliability, trials, importance };
const drawn = new Map();

async function draw(chart) {
  const place = document.getElementById(`chart-${chart.id}`);
  drawn.get(chart.id)?.finalize();
  const spec = { width: "container", description: chart.description, ...KINDS[chart.kind](chart) };
  const options = { mode: "vega-lite", actions: false, renderer: "svg", ast: true, config: theme(), tooltip: { theme: "custom" } };
  drawn.set(chart.id, await vegaEmbed(place, spec, options));
}

// A chart is drawn when it comes near the window, and again when it is near and no longer as it should be.
const near = new Set();
const fresh = new Set();
let turn = 1;
let working = false;

async function work() {
  if (working) return;
  working = true;
  const due = () => data.charts.find((chart) => near.has(chart) && !fresh.has(chart));
  for (let chart = due(); chart; chart = due()) {
    fresh.add(chart);
    // One that cannot be drawn keeps no other from it.
    await draw(chart).catch((error) => console.error(error));
    // A click is answered between two charts.
    await new Promise((done) => setTimeout(done, 0));
  }
  working = false;
  document.documentElement.dataset.drawnAt ??= String(performance.now());
  document.documentElement.dataset.drawn = String(turn);
}

function redraw(charts) {
  turn += 1;
  for (const chart of charts) fresh.delete(chart);
  work();
}

// Nothing may be waited for before paper: what is left is drawn at once.
function drawTheRest() {
  for (const chart of data.charts.filter((one) => !fresh.has(one))) {
    fresh.add(chart);
    draw(chart);
  }
}

function observe() {
  const charts = new Map(data.charts.map((chart) => [document.getElementById(`chart-${chart.id}`), chart]));
  const observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) near[isIntersecting ? "add" : "delete"](charts.get(target));
    work();
  }, { rootMargin: "250px" });
  for (const [place, chart] of charts) {
    // Room for what will be there, so that the page does not jump.
    const height = HEIGHTS[chart.kind]?.();
    if (height) place.style.minHeight = `${height + 45}px`;
    observer.observe(place);
  }
  if (!charts.size) work();
}

function markChosen() {
  for (const button of document.querySelectorAll(".swatch")) {
    const place = chosen.indexOf(Number(button.closest("tr").dataset.run));
    button.setAttribute("aria-pressed", String(place >= 0));
    button.style.setProperty("--colour", place >= 0 ? `var(--run-${place + 1})` : "transparent");
  }
}

document.getElementById("runs-table")?.addEventListener("click", (event) => {
  const button = event.target.closest(".swatch");
  if (!button) return;
  const run = Number(button.closest("tr").dataset.run);
  chosen = chosen.includes(run) ? chosen.filter((other) => other !== run) : [...chosen, run].slice(-MOST_CHOSEN);
  markChosen();
  redraw(data.charts.filter((chart) => chart.kind === "lines" || chart.kind === "parallel"));
});

markChosen();
observe();
addEventListener("beforeprint", drawTheRest);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw(data.charts));
