"use strict";
// Everything from a file enters the page as text (textContent, setAttribute), never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const names = data.skeleton.keypoints;
const kinds = data.kinds;
const labelled = data.figures.kinds !== null;
const PAGE = 24; // cards that are made at a time
const $ = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const svg = make.svg.has(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "text") node.textContent = value;
    else if (value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}
make.svg = new Set(["svg", "g", "line", "circle", "rect", "path", "text", "image", "clipPath"]);

const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;
const plain = (name) => name.replaceAll("_", " ");
const number = (value, digits = 2) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const arrow = (pair, digits = 2) => pair.filter((v) => v !== null && v !== undefined).map((v) => v.toFixed(digits)).join(" → ");

// ---------------------------------------------------------------- summary
function tiles() {
  const { people, moves, kinds: found } = data.figures;
  const list = [[people.toLocaleString("en"), "people in the file"]];
  if (found) {
    list.push([arrow(found.ap, 3) || "–", data.refined ? "AP before → after" : "AP"]);
    if (found.better !== undefined) {
      list.push([percent(found.better, 1), "of labelled keypoints made better"]);
      list.push([percent(found.worse, 1), "made worse"]);
    }
    list.push([`${found.matched} of ${found.labelled}`, "labelled people found"]);
  }
  if (moves) {
    list.push([percent(moves.moved / Math.max(moves.keypoints, 1)), "of keypoints moved"]);
    list.push([`${moves.median} px`, "moved by, in the median"]);
    list.push([moves.filled.toLocaleString("en"), "missing keypoints filled"]);
  }
  for (const [value, what] of list) {
    $("tiles").append(make("div", { class: "tile" }, make("b", { text: value }), make("span", { text: what })));
  }
}

function chart(title, height, draw, keys = [], where = "charts") {
  const svg = make("svg", { viewBox: `0 0 460 ${height}`, role: "img", "aria-label": title });
  draw(svg);
  const box = make("div", { class: "chart" }, make("h3", { text: title }), svg);
  if (keys.length) {
    const list = make("ul", { class: "keys" });
    for (const key of keys) {
      const swatch = make("i");
      swatch.style.background = key.colour;
      list.append(make("li", {}, swatch, key.name));
    }
    box.append(list);
  }
  $(where).append(box);
}

// Anything may carry a tooltip: its data-tip.
function hint(node, text) {
  node.setAttribute("data-tip", text);
  return node;
}

function stacked(rows) {
  const bar = 15, gap = 3, group = 10, left = 108, width = 340;
  const bars = rows[0].bars.length;
  const height = rows.length * (bars * (bar + gap) + group);
  chart(bars === 2 ? "Kinds of error: upper bar before, lower bar after" : "Kinds of error", height, (svg) => {
    rows.forEach((row, index) => {
      const top = index * (bars * (bar + gap) + group);
      svg.append(make("text", { x: left - 8, y: top + (bars * (bar + gap)) / 2 + 3, "text-anchor": "end", text: plain(row.name) }));
      row.bars.forEach((counts, which) => {
        const total = counts.reduce((a, b) => a + b, 0) || 1;
        let x = left;
        counts.forEach((count, kind) => {
          const wide = (width * count) / total;
          const when = bars === 2 ? ["before: ", "after: "][which] : "";
          svg.append(hint(make("rect", { x, y: top + which * (bar + gap), width: wide, height: bar, fill: kinds[kind].colour }),
            `${plain(row.name)}, ${when}${kinds[kind].name}\n${percent(count / total, 1)} (${count} keypoints)`));
          x += wide;
        });
      });
    });
  }, kinds);
}

function bars(title, rows, where = "charts") {
  const line = 21, left = 118, width = 250;
  const most = Math.max(...rows.map((row) => row.value), 1e-9);
  chart(title, rows.length * line, (svg) => {
    rows.forEach((row, index) => {
      const y = index * line;
      svg.append(make("text", { x: left - 8, y: y + 13, "text-anchor": "end", text: row.name }));
      svg.append(make("rect", { class: "track", x: left, y: y + 2, width, height: 14, rx: 2 }));
      svg.append(hint(make("rect", { class: "bar", x: left, y: y + 2, width: Math.max((width * row.value) / most, 0), height: 14, rx: 2 }), `${row.name}\n${row.label}`));
      svg.append(make("text", { class: "quiet", x: left + width + 8, y: y + 13, text: row.short ?? row.label }));
    });
  }, [], where);
}

function charts() {
  const { moves, kinds: found } = data.figures;
  if (found) {
    const parts = Object.entries(found.parts).filter(([, counts]) => counts[0].some((n) => n > 0)).map(([name, counts]) => ({ name, bars: counts }));
    stacked([{ name: "all", bars: found.all }, ...parts]);
    bars(data.refined ? "AP lost to a kind of error, before → after" : "AP lost to a kind of error",
      Object.entries(found.lost).flatMap(([name, values]) => values.map((value, which) => ({
        name: values.length === 2 ? `${name}, ${["before", "after"][which]}` : name, value: Math.max(value ?? 0, 0), label: `${number(value, 3)} AP`, short: number(value, 3),
      }))));
  }
  if (moves) {
    const total = Math.max(moves.keypoints, 1);
    const labels = ["stayed", ...moves.bounds.map((low, i) => (i + 1 < moves.bounds.length ? `${low}–${moves.bounds[i + 1]} %` : `over ${low} %`))];
    bars("How far keypoints moved, in % of the person's size",
      moves.histogram.map((count, i) => ({ name: labels[i], value: count / total, label: `${percent(count / total, 1)} (${count})`, short: percent(count / total, 1) })));
    bars("Keypoints that moved", moves.by_keypoint.map(([name, all, moved, filled]) => ({
      name: plain(name), value: moved / Math.max(all, 1), label: `${percent(moved / Math.max(all, 1))} of ${all} moved, ${filled} filled`, short: `${percent(moved / Math.max(all, 1))}${filled ? ` +${filled}` : ""}`,
    })), "details");
    const sum = Math.max(moves.confidence.reduce((a, b) => a + b, 0), 1);
    bars("Confidence of the refined keypoints", moves.confidence.map((count, i) => ({
      name: `${(i / 10).toFixed(1)} to ${((i + 1) / 10).toFixed(1)}`, value: count / sum, label: `${percent(count / sum, 1)} (${count})`, short: percent(count / sum, 1),
    })), "details");
  }
  $("more-charts").hidden = !$("details").childElementCount;
}

// ---------------------------------------------------------------- people
const colourOf = (name) => (name.startsWith("left_") ? "var(--left)" : name.startsWith("right_") ? "var(--right)" : "var(--middle)");

function edgeColour(a, b) {
  const sides = [a, b].map((k) => (names[k].match(/^(left|right)_/) ?? [])[1]);
  if (sides[0] && sides[1] && sides[0] !== sides[1]) return "var(--middle)";
  const side = sides[0] ?? sides[1];
  return side ? `var(--${side})` : "var(--middle)";
}

function mark(name, [x, y], radius, hollow) {
  const paint = { stroke: "var(--rim)", "stroke-width": 1, fill: colourOf(name) };
  if (hollow) Object.assign(paint, { fill: "none", stroke: colourOf(name), "stroke-width": 2.5 });
  if (name.startsWith("left_")) return make("circle", { cx: x, cy: y, r: radius, ...paint });
  const r = radius * (name.startsWith("right_") ? 0.88 : 1);
  return make("rect", { x: x - r, y: y - r, width: 2 * r, height: 2 * r, transform: name.startsWith("right_") ? null : `rotate(45 ${x} ${y})`, ...paint });
}

const DOUBTFUL = 0.3;
const doubtful = (person, side, k) => side === "after" && person.after[k]?.[2] < DOUBTFUL;
const filled = (person, k) => person.after !== null && person.after[k] !== null && person.before[k] === null;

function pose(person, points, side) {
  const group = make("g", { class: side });
  const place = (k) => points[k];
  for (const rim of [true, false]) {
    for (const [a, b] of data.skeleton.edges) {
      if (!place(a) || !place(b)) continue;
      const faint = side === "after" && (filled(person, a) || filled(person, b));
      group.append(make("line", { class: "edge", x1: place(a)[0], y1: place(a)[1], x2: place(b)[0], y2: place(b)[1],
        stroke: rim ? "var(--rim)" : edgeColour(a, b), "stroke-width": rim ? 4.5 : 2.5, "stroke-dasharray": faint ? "2 6" : null,
        opacity: doubtful(person, side, a) || doubtful(person, side, b) ? 0.35 : null }));
    }
  }
  if (side === "after") {
    points.forEach((point, k) => {
      const old = person.before[k];
      if (!point || !old || Math.hypot(point[0] - old[0], point[1] - old[1]) < 4) return;
      group.append(make("line", { x1: old[0], y1: old[1], x2: point[0], y2: point[1], stroke: "var(--origin)", "stroke-width": 1.5 }));
      group.append(make("circle", { cx: old[0], cy: old[1], r: 4, fill: "none", stroke: "var(--origin)", "stroke-width": 1.5 }));
    });
  }
  points.forEach((point, k) => {
    if (!point) return;
    const node = mark(names[k], point, 4.5, side === "after" && filled(person, k));
    node.setAttribute("data-keypoint", k);
    if (doubtful(person, side, k)) node.setAttribute("opacity", 0.45);
    group.append(node);
  });
  return group;
}

function truthOf(person) {
  const group = make("g", { class: "truth" });
  for (const [a, b] of data.skeleton.edges) {
    if (!person.truth[a] || !person.truth[b]) continue;
    for (const [colour, width] of [["var(--rim)", 3.5], ["var(--truth)", 1.5]]) {
      group.append(make("line", { x1: person.truth[a][0], y1: person.truth[a][1], x2: person.truth[b][0], y2: person.truth[b][1], stroke: colour, "stroke-width": width }));
    }
  }
  person.truth.forEach((point) => {
    if (point) group.append(make("circle", { cx: point[0], cy: point[1], r: 3, fill: "var(--truth)", stroke: "var(--rim)" }));
  });
  return group;
}

function tellKeypoint(person, k, side) {
  const lines = [plain(names[k])];
  const point = person[side]?.[k];
  if (side === "after") {
    lines.push(`confidence ${number(point?.[2])}`);
    lines.push(filled(person, k) ? "filled: the estimator had none" : `moved ${number(person.moved[k], 1)} px`);
  } else lines.push(`estimator's score ${number(point?.[2])}`);
  if (person.kinds) {
    const found = person.kinds.map((list) => kinds[list[k]]?.name ?? "not labelled");
    lines.push(found.length === 2 && found[0] !== found[1] ? found.join(" → ") : found[0]);
  }
  return lines.join("\n");
}

let clips = 0;
function stage(person, tallest) {
  const [width, height] = person.size;
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${person.image}, person ${person.entry}` });
  if (person.photo) svg.append(make("image", { href: `data:image/jpeg;base64,${person.photo}`, width, height, preserveAspectRatio: "none" }));
  const box = make("div", { class: "stage" }, svg);
  const frame = make("div", { class: "frame" }, box);
  frame.style.maxWidth = `calc(${tallest} * ${width / height})`;
  if (person.truth) svg.append(truthOf(person));
  const layers = [["before", pose(person, person.before, "before")]];
  if (person.after) layers.push(["after", pose(person, person.after, "after")]);
  let split = 1;
  const areas = {};
  for (const [side, layer] of layers) {
    const id = `clip${clips++}`;
    areas[side] = make("rect", { x: 0, y: 0, width, height });
    svg.append(make("clipPath", { id }, areas[side]));
    layer.setAttribute("clip-path", `url(#${id})`);
    svg.append(layer);
  }
  const sideAt = (x) => (person.after && x > split * width ? "after" : "before");

  function nearest(event, reach) {
    const drawn = svg.getBoundingClientRect();
    const factor = width / drawn.width;
    const x = (event.clientX - drawn.left) * factor, y = (event.clientY - drawn.top) * factor;
    const side = sideAt(x);
    let best = null, least = reach * factor;
    person[side].forEach((point, k) => {
      const far = point ? Math.hypot(point[0] - x, point[1] - y) : Infinity;
      if (far < least && sideAt(point[0]) === side) [best, least] = [k, far];
    });
    return best === null ? null : { k: best, side };
  }
  function choose(k, side) {
    svg.querySelectorAll(".chosen").forEach((node) => node.classList.remove("chosen"));
    if (k !== null) svg.querySelectorAll(`.${side} [data-keypoint="${k}"]`).forEach((node) => node.classList.add("chosen"));
  }
  let dragging = false;
  const follow = (event) => {
    const found = dragging ? null : nearest(event, event.pointerType === "touch" ? 22 : 12);
    choose(found ? found.k : null, found?.side);
    if (found) showTip(event.clientX, event.clientY, tellKeypoint(person, found.k, found.side));
    else hideTip();
  };
  box.addEventListener("pointermove", (event) => {
    if (dragging) move((event.clientX - svg.getBoundingClientRect().left) / svg.getBoundingClientRect().width);
    follow(event);
  });
  box.addEventListener("pointerdown", (event) => {
    if (nearest(event, 12)) return follow(event);
    if (!person.after) return;
    dragging = true;
    box.setPointerCapture(event.pointerId);
    move((event.clientX - svg.getBoundingClientRect().left) / svg.getBoundingClientRect().width);
  });
  for (const end of ["pointerup", "pointercancel"]) box.addEventListener(end, () => { dragging = false; });
  box.addEventListener("pointerleave", () => { choose(null); hideTip(); });

  let move = () => {};
  if (person.after) {
    const divider = make("line", { class: "divider", y1: 0, y2: height, "stroke-width": 2 });
    const size = Math.min(13, 0.06 * width);
    const words = [["before", "end"], ["after", "start"]].map(([text, anchor]) => make("text", { class: "word", y: 1.4 * size, "text-anchor": anchor, "font-size": size, text }));
    svg.append(divider, ...words);
    const slider = make("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": `before or after, ${person.image}, person ${person.entry}` });
    move = (share) => {
      split = Math.min(Math.max(share, 0), 1);
      const x = split * width;
      areas.before.setAttribute("width", x);
      areas.after.setAttribute("x", x);
      areas.after.setAttribute("width", width - x);
      divider.setAttribute("x1", x);
      divider.setAttribute("x2", x);
      words[0].setAttribute("x", x - 5);
      words[1].setAttribute("x", x + 5);
      words[0].setAttribute("visibility", x > 4 * size ? "visible" : "hidden");
      words[1].setAttribute("visibility", width - x > 3.2 * size ? "visible" : "hidden");
      slider.value = Math.round(100 * split);
    };
    slider.addEventListener("input", () => move(slider.value / 100));
    move(0.5);
    frame.append(slider);
  }
  return { frame, choose };
}

function facts(person) {
  const lines = [];
  if (person.oks) {
    const line = make("p", { text: `OKS ${arrow(person.oks)}` });
    if (person.oks.length === 2 && Math.abs(person.oks[1] - person.oks[0]) >= 0.005) {
      const gain = person.oks[1] - person.oks[0];
      line.append(make("b", { class: gain > 0 ? "gain" : "loss", text: ` ${gain > 0 ? "+" : "−"}${Math.abs(gain).toFixed(2)}` }));
    }
    lines.push(line);
  }
  const score = arrow(person.score);
  const bits = [];
  if (score) bits.push(`score ${score}`);
  if (person.confidence !== undefined && person.confidence !== null) bits.push(`confidence ${person.confidence.toFixed(2)}`);
  if (bits.length) lines.push(make("p", { text: bits.join(" · ") }));
  if (person.after) {
    const added = names.filter((_, k) => filled(person, k)).length;
    const furthest = Math.max(...person.moved.filter((_, k) => person.before[k] && person.after[k]), 0);
    lines.push(make("p", { text: `moved up to ${furthest.toFixed(0)} px${added ? ` · ${added} filled` : ""}` }));
  }
  return lines;
}

function card(person, position) {
  const open = make("button", { type: "button", class: "name", text: `${person.image} · ${person.id ?? person.entry}` });
  open.addEventListener("click", () => openPerson(position));
  return make("article", { class: "card", "data-entry": person.entry }, stage(person, "420px").frame, open, ...facts(person));
}

// ---------------------------------------------------------------- filters
let shown = [], made = 0;

function options(select, list) {
  for (const [value, text] of list) select.append(make("option", { value, text }));
}

const ORDERS = {
  rank: ["most changed first", null],
  gain: ["largest gain of OKS", (p) => -(p.oks?.length === 2 ? p.oks[1] - p.oks[0] : -9)],
  loss: ["largest loss of OKS", (p) => (p.oks?.length === 2 ? p.oks[1] - p.oks[0] : 9)],
  oks: ["lowest OKS", (p) => p.oks?.at(-1) ?? 9],
  moved: ["moved furthest", (p) => -Math.max(...(p.moved ?? [0]).filter((_, k) => p.before[k] && p.after?.[k]), 0)],
  doubt: ["least confident", (p) => p.confidence ?? 9],
  score: ["highest score", (p) => -(p.score[1] ?? p.score[0] ?? -9)],
  file: ["order of the file", (p) => p.entry],
};

function prepareFilters() {
  options($("keypoint"), [["", "any"], ...names.map((name, k) => [k, plain(name)])]);
  for (const id of ["was", "became"]) options($(id), [["", "any"], ...kinds.map((kind, i) => [i, kind.name])]);
  options($("change"), [["", "any"], ["moved", "moved"], ["filled", "filled"], ...(labelled ? [["better", "OKS rose"], ["worse", "OKS fell"]] : [])]);
  const withAfter = new Set(["gain", "loss"]);
  const orders = Object.entries(ORDERS).filter(([key]) => (labelled || !["gain", "loss", "oks"].includes(key)) && (data.refined || !(withAfter.has(key) || ["moved", "doubt"].includes(key))));
  options($("order"), orders.map(([key, [text]]) => [key, key === "rank" && !data.refined ? "lowest OKS first" : text]));
  document.querySelectorAll(".labelled").forEach((node) => { node.hidden = !labelled; });
  document.querySelectorAll(".after").forEach((node) => { node.hidden = node.hidden || !data.refined; });
  for (const kind of ["input", "change"]) $("filters").addEventListener(kind, apply);
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("reset", () => setTimeout(apply));
}

function fits(person, want) {
  if (want.text && !`${person.image} ${person.id ?? ""} ${person.entry}`.toLowerCase().includes(want.text)) return false;
  if (want.score !== null && !((person.score[1] ?? person.score[0] ?? 0) >= want.score)) return false;
  if (want.change === "better" || want.change === "worse") {
    if (person.oks?.length !== 2) return false;
    const gain = person.oks[1] - person.oks[0];
    if (want.change === "better" ? gain < 0.005 : gain > -0.005) return false;
  }
  const each = want.keypoint === null ? names.map((_, k) => k) : [want.keypoint];
  return each.some((k) => {
    if (want.keypoint !== null && !person.before[k] && !person.after?.[k]) return false;
    if (want.was !== null && person.kinds?.[0][k] !== want.was) return false;
    if (want.became !== null && person.kinds?.at(-1)[k] !== want.became) return false;
    if (want.change === "moved" && !(person.before[k] && person.after?.[k] && person.moved[k] > 0)) return false;
    return want.change !== "filled" || filled(person, k);
  });
}

function apply() {
  const chosen = (id) => ($(id).value === "" ? null : Number($(id).value));
  const want = { text: $("search").value.trim().toLowerCase(), keypoint: chosen("keypoint"), was: chosen("was"), became: chosen("became"), change: $("change").value, score: chosen("score") };
  shown = data.people.filter((person) => fits(person, want));
  const key = ORDERS[$("order").value]?.[1];
  if (key) shown = shown.map((p, i) => [key(p), i, p]).sort((a, b) => a[0] - b[0] || a[1] - b[1]).map((row) => row[2]);
  document.body.classList.toggle("show-truth", $("truth").checked);
  $("people").replaceChildren();
  made = 0;
  grow();
}

function grow() {
  const next = shown.slice(made, made + PAGE);
  $("people").append(...next.map((person, i) => card(person, made + i)));
  made += next.length;
  $("more").hidden = made >= shown.length;
  const all = data.people.length, file = data.figures.people;
  $("count").textContent = `${shown.length} of ${all} people${all < file ? ` (the file has ${file}; those who changed most are here)` : ""}`;
}

// ---------------------------------------------------------------- one person
let current = 0;

function openPerson(position) {
  current = (position + shown.length) % shown.length;
  const person = shown[current];
  $("dialog-title").textContent = `${person.image} · ${person.id ?? person.entry} (${current + 1} of ${shown.length})`;
  const view = stage(person, "72vh");
  const head = ["keypoint", "score", ...(person.after ? ["confidence", "moved, px"] : []), ...(person.kinds ? ["kind"] : [])];
  const body = make("tbody");
  names.forEach((name, k) => {
    const cells = [plain(name), number(person.before[k]?.[2])];
    if (person.after) cells.push(number(person.after[k]?.[2]), filled(person, k) ? "filled" : person.before[k] && person.after[k] ? number(person.moved[k], 1) : "–");
    if (person.kinds) {
      const found = person.kinds.map((list) => kinds[list[k]]?.name ?? "–");
      cells.push(found.length === 2 && found[0] !== found[1] ? found.join(" → ") : found[0]);
    }
    const row = make("tr", {}, ...cells.map((text) => make("td", { text })));
    row.addEventListener("pointerenter", () => { view.choose(k, "before"); if (person.after) view.choose(k, "after"); });
    row.addEventListener("pointerleave", () => view.choose(null));
    body.append(row);
  });
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...head.map((text) => make("th", { text, scope: "col" })))), body);
  $("dialog-body").replaceChildren(make("div", {}, view.frame, ...facts(person)), make("div", { class: "scroll" }, table));
  if (!$("dialog").open) $("dialog").showModal();
}

function showTip(x, y, text) {
  const tip = $("tip");
  tip.textContent = text;
  tip.hidden = false;
  ($("dialog").open ? $("dialog") : document.body).append(tip);
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 4))}px`;
  tip.style.top = `${Math.max(4, y + 18 + box.height > innerHeight ? y - box.height - 10 : y + 18)}px`;
}
function hideTip() { $("tip").hidden = true; }

function listen() {
  $("more").addEventListener("click", grow);
  $("previous").addEventListener("click", () => openPerson(current - 1));
  $("next").addEventListener("click", () => openPerson(current + 1));
  $("close").addEventListener("click", () => $("dialog").close());
  $("dialog").addEventListener("close", hideTip);
  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "/" && !typing) { event.preventDefault(); $("search").focus(); }
    if (!$("dialog").open || typing) return;
    if (event.key === "ArrowLeft") openPerson(current - 1);
    if (event.key === "ArrowRight") openPerson(current + 1);
  });
  $("summary").addEventListener("pointermove", (event) => {
    const text = event.target.getAttribute?.("data-tip");
    if (text) showTip(event.clientX, event.clientY, text);
    else hideTip();
  });
  $("summary").addEventListener("pointerleave", hideTip);
  new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting) && made < shown.length) grow();
  }, { rootMargin: "600px" }).observe($("more"));
}

$("title").textContent = data.title;
for (const note of data.notes) $("notes").append(make("li", { text: note }));
tiles();
charts();
prepareFilters();
listen();
apply();
