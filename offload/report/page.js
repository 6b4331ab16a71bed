"use strict";
// Draws each plot when it comes into view, in the colours of the page, and again when those change.
(() => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)").matches;
  const plots = [...document.querySelectorAll(".plot")];
  const drawn = new Set();

  // Figures name colours as the style sheet does, perhaps with how opaque they are; Plotly wants them spelled out.
  const coloured = (value, style) => {
    if (typeof value === "string") {
      const [, name, opaque] = /^var\((--\w+)\)(?:@([\d.]+))?$/.exec(value) || [];
      if (!name) return value;
      const hex = style.getPropertyValue(name).trim();
      if (!opaque) return hex;
      return `rgba(${[1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)).join(",")},${opaque})`;
    }
    if (Array.isArray(value)) {
      return typeof value[value.length - 1] === "number" ? value : value.map((one) => coloured(one, style));
    }
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, coloured(one, style)]));
    }
    return value;
  };

  const draw = (plot) => {
    drawn.add(plot);
    const figure = coloured(JSON.parse(plot.querySelector("script").textContent), getComputedStyle(root));
    for (const button of plot.querySelectorAll(".legend button[aria-pressed=false]")) {
      for (const number of button.dataset.traces.split(" ")) figure.data[number].visible = false;
    }
    // A finger that is drawn over a plot scrolls the page; there are buttons to zoom.
    figure.layout.dragmode = touch ? false : "zoom";
    Plotly.react(plot.querySelector(".canvas"), figure.data, figure.layout, {
      responsive: true,
      displaylogo: false,
      displayModeBar: touch && "zooms" in plot.dataset,
      modeBarButtons: [["zoomIn2d", "zoomOut2d", "resetScale2d"]],
    });
  };

  root.classList.add("js");
  const seen = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (entry.isIntersecting) {
          seen.unobserve(entry.target);
          draw(entry.target);
        }
      }
    },
    { rootMargin: "800px 0px" },
  );
  for (const plot of plots) {
    seen.observe(plot);
    for (const button of plot.querySelectorAll(".legend button")) {
      button.addEventListener("click", () => {
        button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") === "false");
        draw(plot);
      });
    }
  }
  dark.addEventListener("change", () => drawn.forEach(draw));
  addEventListener("beforeprint", () => {
    root.dataset.print = "";
    for (const folded of document.querySelectorAll("details")) folded.open = true;
    plots.forEach(draw);
  });
  addEventListener("afterprint", () => {
    delete root.dataset.print;
    plots.forEach(draw);
  });
})();
