// The panel of one run: its full record, fetched from its own script when it is first asked for.

const loaded = new Map();
const waiting = new Map();

window.fgmaeBenchRun = (name, record) => {
  loaded.set(name, record);
};

/** The record of a run; rejects when its file is missing. */
function recordOf(name) {
  if (loaded.has(name)) return Promise.resolve(loaded.get(name));
  if (!waiting.has(name))
    waiting.set(name, new Promise((resolve, reject) => {
      const script = h("script", { src: `runs/${encodeURIComponent(name)}.js` });
      const done = () => {
        script.remove();
        waiting.delete(name);
        if (loaded.has(name)) resolve(loaded.get(name));
        else reject(new Error(`runs/${name}.js is missing: keep the folder runs/ next to index.html`));
      };
      script.addEventListener("load", done);
      script.addEventListener("error", done);
      document.head.append(script);
    }));
  return waiting.get(name);
}

/** Opens runs in the dialog; the address names the open run, so that a link leads back to it. */
function runPanel(page) {
  const panel = byId("panel");
  let current = null;
  panel.addEventListener("close", () => {
    current = null;
    address.put("run", "");
  });
  panel.addEventListener("click", (event) => event.target === panel && panel.close());

  return async function open(name, siblings) {
    if (current === name) return;
    current = name;
    delete panel.dataset.run;
    const content = h("div", { class: "content" }, h("p", { class: "muted" }, "Loading the record…"));
    const others = (siblings || []).length > 1 ? choice("Runs of this row", siblings.map((each) => [each, seedName(each)]), name, (next) => open(next, siblings)) : null;
    panel.replaceChildren(
      h("header", {},
        h("div", {}, h("h2", { id: "panel-title", tabindex: "-1", autofocus: true }, name), others),
        h("button", { type: "button", class: "quiet", "aria-label": "Close", on: { click: () => panel.close() } }, "✕")),
      content);
    if (!panel.open) panel.showModal();
    panel.scrollTop = 0;
    address.put("run", name);
    try {
      const record = await recordOf(name);
      if (current !== name) return;
      if (record.dataset.synthetic) byId("panel-title").append(badge("synthetic"));
      content.replaceChildren(...recordView(record).filter(Boolean));
      panel.dataset.run = name;
    } catch (problem) {
      content.replaceChildren(h("p", { class: "banner" }, problem.message));
    }
  };

  function seedName(name) {
    const run = page.runs[name];
    return run && run.seed !== null ? `seed ${run.seed}` : name;
  }
}

function recordView(record) {
  const { dataset, model, config, metrics, timing, environment } = record;
  const command = environment.command;
  return [
    record.dataset.synthetic ? h("p", { class: "banner" }, "Synthetic data: a generated world, not measurements of Sentinel-1.") : null,
    facts([
      ["dataset", `${dataset.name}, card version ${dataset.card_version}`],
      ["split", `${dataset.split}, seed ${dataset.split_seed}`],
      ["samples", `${readable(dataset.n_train)} train, ${readable(dataset.n_val)} val, ${readable(dataset.n_test)} test`],
      ["model", model.name],
      ["weights", model.weights.source],
      ["parameters", `${readable(model.params_total)}, ${readable(model.params_trainable)} trained`],
      ["protocol", `${record.protocol}, recipe ${record.recipe}`],
      ["learning rate", config.recipe.lr],
      ["batch", `${config.recipe.batch_size} × ${config.recipe.accum_iter || 1} × ${environment.world_size} processes`],
      ["epochs", config.recipe.epochs],
      ["status", record.status],
      ["time", timing.total_seconds === null ? null : `${readable(timing.total_seconds)} s on ${environment.device_name || environment.device}`],
      ["created", record.created],
    ]),
    record.notes.length ? part("Notes", h("ul", { class: "plain" }, record.notes.map((note) => h("li", {}, note.text)))) : null,
    part("Scores", scores(metrics)),
    record.history.length > 1 ? part("Curves", historyChart(record)) : null,
    record.stress && metrics.tolerance ? part("Physics card", stressCard(record)) : null,
    metrics.confusion ? part("Confusion matrix", confusion(metrics)) : null,
    Object.keys(metrics.per_class).length ? part("Classes", perClass(metrics.per_class)) : null,
    command ? part("Command", copyable(command)) : null,
    h("details", { class: "whole" }, h("summary", {}, "Full record"), tree(without(record, ["history"])), h("h4", {}, "As JSON"), copyable(JSON.stringify(record, null, 1))),
  ];
}

function part(title, ...children) {
  return h("section", {}, h("h3", {}, title), ...children);
}

function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, readable(value)))));
}

/** A table of plain cells; numbers are aligned. */
function grid(headings, rows) {
  return h("div", { class: "frame", tabindex: "0" }, h("table", {},
    h("thead", {}, h("tr", {}, headings.map((text, i) => h("th", { scope: "col", class: i ? "number" : null }, text)))),
    h("tbody", {}, rows.map(([first, ...rest]) => h("tr", {}, h("th", { scope: "row" }, first),
      rest.map((value) => h("td", { class: "number" }, value instanceof Node ? value : shown(value))))))));
}

const called = (name) => (name === "lr" ? "learning rate" : (page.head.columns[name] || [name])[0]);

function shown(value) {
  if (typeof value === "number" && !Number.isInteger(value)) return value.toFixed(4);
  if (Array.isArray(value) && value.length === 2) return value.map(shown).join(" to ");
  return value !== null && typeof value === "object" ? JSON.stringify(value) : readable(value);
}

function scores(metrics) {
  const found = { test: metrics.test, "test, 95 %": (metrics.intervals || {}).test, "last epoch": metrics.final, "best on val": metrics.best, "per batch (legacy)": metrics.legacy };
  const columns = Object.keys(found).filter((name) => found[name]);
  const names = [...new Set(columns.flatMap((column) => Object.keys(found[column])))];
  return grid(["", ...columns], names.map((name) => [called(name), ...columns.map((column) => found[column][name])]));
}

function historyChart(record) {
  const run = { epoch: record.history.map((e) => e.epoch), lr: record.history.map((e) => e.lr), train: record.history.map((e) => e.train_loss), val: {} };
  for (const name of new Set(record.history.flatMap((entry) => Object.keys(entry.val))))
    if (name !== "epoch") run.val[name] = record.history.map((entry) => (entry.val[name] === undefined ? null : entry.val[name]));
  const names = [...new Set(["loss", ...Object.keys(run.val), "lr"])].filter((name) => seriesOf(run, name, "", 0).length);
  const host = h("div", { class: "chart" }), picture = chart(host, record.run_id);
  const draw = (name) => picture.update({ series: seriesOf(run, name, "evaluation", 0), label: page.head.axes[name] || called(name), log: false });
  draw(names[0]);
  return h("div", {}, h("div", { class: "tools" }, choice("Curve", names.map((name) => [name, called(name)]), names[0], draw)), host);
}

/** Rows are the reference, columns the prediction; shades are shares of the row. */
function confusion(metrics) {
  const matrix = metrics.confusion, own = Object.keys(metrics.per_class);
  const names = own.length === matrix.length ? own : metrics.classes_scored.length === matrix.length ? metrics.classes_scored : matrix.map((_, i) => String(i));
  const host = h("div", { class: "frame", tabindex: "0", role: "region", "aria-label": "Confusion matrix" });
  const sums = matrix.map((row) => row.reduce((sum, n) => sum + n, 0));
  function draw(unit) {
    const rows = matrix.map((row, i) => h("tr", {}, h("th", { scope: "row" }, names[i]), row.map((n, j) => {
      const share = sums[i] ? n / sums[i] : 0;
      const cell = h("td", { class: `${i === j ? "right" : ""} ${n ? "" : "none"}`, "data-tip": `${names[i]} taken for ${names[j]}: ${readable(n)} (${(100 * share).toFixed(1)} % of the row)` },
        n === 0 ? "·" : unit === "counts" ? readable(n) : (100 * share).toFixed(share >= 0.995 ? 0 : 1));
      cell.style.setProperty("--share", `${(100 * share).toFixed(1)}%`);
      return cell;
    }), h("td", { class: "sum" }, readable(sums[i]))));
    host.replaceChildren(h("table", { class: "confusion" },
      h("thead", {}, h("tr", {}, h("th", { class: "corner" }, "reference ↓ predicted →"), names.map((name) => h("th", { scope: "col" }, h("span", {}, name))), h("th", { scope: "col" }, h("span", {}, "samples")))),
      h("tbody", {}, rows)));
  }
  draw("counts");
  return h("div", {}, h("div", { class: "tools" }, choice("Unit", [["counts", "counts"], ["share", "% of reference"]], "counts", draw)), host);
}

function perClass(classes) {
  const columns = [...new Set(Object.values(classes).flatMap((each) => Object.keys(each)))];
  return grid(["class", ...columns], Object.entries(classes).map(([name, values]) => [name, ...columns.map((column) => bar(values[column], column))]));
}

function bar(value, column) {
  if (typeof value !== "number" || Number.isInteger(value) && column === "support") return readable(value);
  const made = h("span", { class: "bar" }, value.toFixed(3));
  made.style.setProperty("--share", `${(100 * Math.max(0, Math.min(1, value))).toFixed(1)}%`);
  return made;
}

function copyable(text) {
  const button = h("button", { type: "button", class: "quiet copy", on: { click: async () => {
    const selection = getSelection();
    selection.selectAllChildren(block);
    let copied = false;
    try {
      await navigator.clipboard.writeText(text);
      copied = true;
    } catch (refused) {
      copied = document.execCommand("copy");
    }
    button.textContent = copied ? "Copied" : "Selected";
  } } }, "Copy");
  const block = h("pre", { tabindex: "0" }, text);
  return h("div", { class: "copyable" }, button, block);
}

/** Nested facts as nested lists. */
function tree(value) {
  return h("dl", { class: "tree" }, Object.entries(value).map(([name, inner]) =>
    inner !== null && typeof inner === "object" && !Array.isArray(inner) && Object.keys(inner).length
      ? h("div", {}, h("dt", {}, name), h("dd", {}, tree(inner)))
      : h("div", { class: "leaf" }, h("dt", {}, name), h("dd", {}, typeof inner === "string" ? inner : JSON.stringify(inner)))));
}

function without(record, names) {
  return Object.fromEntries(Object.entries(record).filter(([name]) => !names.includes(name)));
}
