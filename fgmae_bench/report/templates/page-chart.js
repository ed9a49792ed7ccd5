// Curves over epochs as SVG. A series is {name, slot, x, y, faint}: equal slots share a colour, faint ones are dashed.

const SLOTS = 12;
const COLOURS = 6;
const CHART_HEIGHT = 300;
const MARGIN = { top: 12, right: 16, bottom: 42, left: 64 };

function niceStep(span, count) {
  const rough = span / count, power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((step) => step >= rough * 0.999);
}

function linearTicks(low, high, count) {
  const step = niceStep(high - low || 1, count), ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(Number((i * step).toPrecision(12)));
  return ticks;
}

function logTicks(low, high) {
  const ticks = [], decades = Math.log10(high / low), factors = decades < 1.2 ? [1, 2, 3, 5, 7] : decades < 3 ? [1, 2, 5] : [1];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
    for (const factor of factors) {
      const tick = Number((factor * 10 ** power).toPrecision(3));
      if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
    }
  return ticks;
}

/** Scale of the value axis: a function to [0, 1] and its ticks; the logarithm leaves out what is not positive. */
function valueScale(values, log) {
  let low = Math.min(...values), high = Math.max(...values);
  if (low === high) [low, high] = low === 0 ? [0, 1] : [low - Math.abs(low) * 0.1, high + Math.abs(high) * 0.1];
  if (log) return { of: (v) => Math.log(v / low) / Math.log(high / low), ticks: logTicks(low, high) };
  const margin = (high - low) * 0.05;
  low = low >= 0 && low - margin < 0 ? 0 : low - margin;
  high += margin;
  return { of: (v) => (v - low) / (high - low), ticks: linearTicks(low, high, 5) };
}

/** A chart in `host`; its update({series, label, log}) draws. Arrow keys and the pointer read values off. */
function chart(host, describe) {
  let spec = null, width = 0, points = [], at = -1, guide = null, marks = null;
  const reading = h("div", { class: "reading", "aria-live": "polite", hidden: true });
  const plot = h("div", { class: "plot", tabindex: "0", role: "img" });
  host.append(plot, reading);

  function draw() {
    plot.replaceChildren();
    reading.hidden = true;
    at = -1;
    if (!spec || !width) return;
    plot.setAttribute("aria-label", `${describe}: ${spec.label} over epochs, ${spec.series.length} curves; arrow keys read values`);
    const usable = (v) => v !== null && (!spec.log || v > 0);
    const drawn = spec.series.filter((one) => one.y.some(usable));
    if (!drawn.length) return void plot.append(h("p", { class: "empty" }, "No curve is chosen, or none has values here."));
    const xs = [...new Set(drawn.flatMap((one) => one.x))].sort((a, b) => a - b);
    const y = valueScale(drawn.flatMap((one) => one.y.filter(usable)), spec.log);
    const inner = width - MARGIN.left - MARGIN.right, tall = CHART_HEIGHT - MARGIN.top - MARGIN.bottom;
    const span = xs[xs.length - 1] - xs[0];
    const left = (v) => MARGIN.left + (span ? ((v - xs[0]) / span) * inner : inner / 2);
    const top = (v) => MARGIN.top + (1 - y.of(v)) * tall;
    const svg = s("svg", { viewBox: `0 0 ${width} ${CHART_HEIGHT}`, width, height: CHART_HEIGHT, "aria-hidden": "true" });
    for (const tick of y.ticks)
      svg.append(
        s("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: top(tick), y2: top(tick) }),
        s("text", { class: "tick", x: MARGIN.left - 8, y: top(tick) + 4, "text-anchor": "end" }, readable(tick)),
      );
    for (const tick of linearTicks(xs[0], xs[xs.length - 1], Math.max(2, Math.min(10, inner / 70))).filter(Number.isInteger))
      svg.append(s("text", { class: "tick", x: left(tick), y: CHART_HEIGHT - MARGIN.bottom + 20, "text-anchor": "middle" }, tick));
    svg.append(
      s("text", { class: "axis", x: MARGIN.left + inner / 2, y: CHART_HEIGHT - 4, "text-anchor": "middle" }, "epoch"),
      s("text", { class: "axis", transform: `translate(13 ${MARGIN.top + tall / 2}) rotate(-90)`, "text-anchor": "middle" }, spec.label),
    );
    points = [];
    for (const one of drawn) {
      const place = one.x.map((x, i) => (usable(one.y[i]) ? [left(x), top(one.y[i])] : null));
      svg.append(s("path", { class: `curve c${one.slot % COLOURS} d${Math.floor(one.slot / COLOURS)}${one.faint ? " faint" : ""}`, d: path(place) }));
      points.push({ one, place });
    }
    guide = s("line", { class: "guide", y1: MARGIN.top, y2: MARGIN.top + tall, visibility: "hidden" });
    marks = s("g");
    svg.append(guide, marks);
    svg.addEventListener("pointermove", (event) => {
      const x = event.clientX - svg.getBoundingClientRect().left;
      read(xs.reduce((best, each, i) => (Math.abs(left(each) - x) < Math.abs(left(xs[best]) - x) ? i : best), 0));
    });
    svg.addEventListener("pointerleave", () => read(-1));
    plot.onkeydown = (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
      if (step) read(Math.max(0, Math.min(xs.length - 1, at < 0 && step === 1 ? 0 : at + step)));
      if (event.key === "Escape") read(-1);
      if (step) event.preventDefault();
    };
    plot.onblur = () => read(-1);
    plot.append(svg);

    /** Show the values at xs[i]; -1 shows none. */
    function read(i) {
      at = i;
      reading.hidden = i < 0;
      guide.setAttribute("visibility", i < 0 ? "hidden" : "visible");
      marks.replaceChildren();
      if (i < 0) return;
      const x = left(xs[i]), found = [];
      guide.setAttribute("x1", x);
      guide.setAttribute("x2", x);
      for (const { one, place } of points) {
        const k = one.x.indexOf(xs[i]);
        if (k < 0 || !place[k]) continue;
        marks.append(s("circle", { class: `mark c${one.slot % COLOURS}`, cx: x, cy: place[k][1], r: one.faint ? 2.5 : 3.5 }));
        found.push([one, one.y[k]]);
      }
      found.sort((a, b) => b[1] - a[1]);
      const lines = found.slice(0, 14).map(([one, value]) =>
        h("div", {}, key(one.slot, one.faint), h("span", { class: "name" }, one.name), h("b", {}, readable(value))),
      );
      if (found.length > 14) lines.push(h("div", { class: "muted" }, `and ${found.length - 14} more`));
      reading.replaceChildren(h("div", { class: "muted" }, `epoch ${xs[i]}`), ...lines);
      const box = reading.offsetWidth;
      reading.style.left = `${x + box + 20 > width ? Math.max(4, x - box - 12) : x + 12}px`;
    }
  }

  new ResizeObserver(() => {
    if (plot.clientWidth === width) return;
    width = plot.clientWidth;
    draw();
  }).observe(plot);
  return {
    update(next) {
      spec = next;
      width = plot.clientWidth;
      draw();
    },
  };
}

/** The line of a curve; a value that is missing breaks it, one that stands alone is a dot. */
function path(place) {
  let text = "";
  place.forEach((point, i) => {
    if (!point) return;
    const alone = !place[i - 1] && !place[i + 1];
    text += `${place[i - 1] ? "L" : "M"}${point[0].toFixed(1)} ${point[1].toFixed(1)}${alone ? "h.01" : ""}`;
  });
  return text;
}

/** The sample of a curve's line in a legend. */
function key(slot, faint) {
  const line = s("line", { x1: 1, x2: 21, y1: 5, y2: 5, class: `curve c${slot % COLOURS} d${Math.floor(slot / COLOURS)}${faint ? " faint" : ""}` });
  return s("svg", { class: "key", viewBox: "0 0 22 10", width: 22, height: 10, "aria-hidden": "true" }, line);
}

/** The series that a run adds to a chart of `metric`; the loss comes with that of the training split. */
function seriesOf(run, metric, name, slot) {
  if (metric === "lr") return [{ name, slot, x: run.epoch, y: run.lr, faint: false }];
  const found = run.val[metric] ? [{ name, slot, x: run.epoch, y: run.val[metric], faint: false }] : [];
  if (metric === "loss") found.push({ name: `${name}, training`, slot, x: run.epoch, y: run.train, faint: true });
  return found.filter((one) => one.y.some((v) => v !== null));
}
