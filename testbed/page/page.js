"use strict";
// Draws what the page holds as JSON: plots as they are, the timeline of the request that is chosen.
(() => {
  const page = JSON.parse(document.getElementById("page-data").textContent);
  const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
  const PRINTED = 640; // pixels that a sheet of paper is wide
  const escaped = (text) => text.replace(/[&<>]/g, (c) => `&#${c.charCodeAt(0)};`).replace(/%\{/g, "%&#123;");

  function put(box, data, layout) {
    return Plotly.react(box, data, { ...layout, template: page.template }, config);
  }

  function draw(box) {
    const plot = page.plots[box.dataset.plot];
    if (plot && box.offsetParent !== null && !box.classList.contains("js-plotly-plot")) put(box, plot.data, plot.layout);
  }

  function drawAll() {
    document.querySelectorAll(".plot[data-plot]").forEach(draw);
  }

  // Selects of one group move together.
  function choose(group, value) {
    for (const select of document.querySelectorAll("select[data-group]"))
      if (select.dataset.group === group) select.value = value;
    for (const part of document.querySelectorAll("[data-option]"))
      if (part.dataset.option === group) part.hidden = part.dataset.value !== value;
    drawAll();
    for (const box of document.querySelectorAll(".plot.js-plotly-plot"))
      if (box.offsetParent !== null) Plotly.Plots.resize(box);
  }

  function fill(select, titles) {
    select.replaceChildren(...titles.map((title, index) => new Option(title, index)));
  }

  function shown(us) {
    const [scale, unit] = us >= 1e6 ? [1e6, "s"] : us >= 1e3 ? [1e3, "ms"] : [1, "us"];
    return `${Number((us / scale).toPrecision(3))} ${unit}`;
  }

  // One bar for every span; rows are devices, or the layers of every device.
  function timeline(request, byLayer) {
    const { kinds, stages } = page.timeline;
    const traces = kinds.map(([name, colour]) => ({
      type: "bar", orientation: "h", name, x: [], y: [], base: [], customdata: [], width: 0.8,
      marker: { color: colour, line: { width: 0 } },
      hovertemplate: `%{customdata[0]}<br>${name}: %{customdata[1]}<br>%{customdata[2]} from %{customdata[3]}<extra></extra>`,
    }));
    const names = [];
    for (const [host, spans] of request.devices) {
      const layers = byLayer ? [...new Set(spans.map((span) => span[2]))].sort((a, b) => a - b) : [null];
      const rows = new Map(layers.map((layer, index) => [layer, names.length + index]));
      names.push(...layers.map((layer) =>
        escaped(host) + (layer === null ? "" : layer < 0 ? " ends" : ` layer ${layer}`)));
      for (const [kind, stage, layer, start, length] of spans) {
        const trace = traces[kind];
        trace.y.push(rows.get(byLayer ? layer : null));
        trace.base.push(start / 1e3);
        trace.x.push(length / 1e3);
        trace.customdata.push([
          escaped(host), escaped(stages[stage]) + (layer < 0 ? "" : `, layer ${layer}`), shown(length), shown(start)]);
      }
    }
    const row = byLayer ? 15 : 34;
    const layout = {
      barmode: "overlay", bargap: 0, height: Math.max(124, 72 + row * names.length),
      xaxis: { title: { text: "ms since the earliest device began" }, rangemode: "tozero" },
      yaxis: { tickvals: names.map((_, index) => index), ticktext: names, range: [names.length - 0.5, -0.5], ticks: "",
        tickfont: { size: byLayer ? 10 : 13 }, showgrid: false },
      dragmode: window.matchMedia("(pointer: fine)").matches ? "zoom" : false,
    };
    return [traces.filter((trace) => trace.x.length), layout];
  }

  function startTimeline() {
    const box = document.getElementById("timeline-plot");
    if (!box || !page.timeline) return;
    const [entry, request, rows] = ["entry", "request", "rows"].map((n) => document.getElementById(`timeline-${n}`));
    const { entries } = page.timeline;
    const again = () => {
      const found = entries[entry.value].requests[request.value];
      const [data, layout] = timeline(found, rows.value === "1");
      box.style.height = `${layout.height}px`;
      box.setAttribute("aria-label", `Timeline of ${entries[entry.value].title}, request ${found.title}`);
      put(box, data, layout);
    };
    const requests = () => {
      fill(request, entries[entry.value].requests.map((r) => r.title));
      again();
    };
    fill(entry, entries.map((e) => e.title));
    entry.value = Math.max(0, entries.findIndex((e) => e.requests[0].devices.length > 1));
    fill(rows, ["one per device", "one per device and layer"]);
    entry.addEventListener("change", requests);
    request.addEventListener("change", again);
    rows.addEventListener("change", again);
    requests();
  }

  function resized(width) {
    for (const box of document.querySelectorAll(".plot.js-plotly-plot"))
      if (box.offsetParent !== null) Plotly.relayout(box, width ? { width, autosize: false } : { width: null, autosize: true });
  }

  for (const select of document.querySelectorAll("select[data-group]"))
    select.addEventListener("change", () => choose(select.dataset.group, select.value));
  window.addEventListener("beforeprint", () => resized(PRINTED));
  window.addEventListener("afterprint", () => resized(null));
  drawAll();
  startTimeline();
  document.documentElement.dataset.ready = "yes";
})();
