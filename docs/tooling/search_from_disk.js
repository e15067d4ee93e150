// Pages from disk may not start a worker by its file. The build puts the source of the theme's search here as text, and
// the worker is started from that.
if (location.protocol === "file:") {
  const source = __SOURCE__;
  const ByFile = window.Worker;
  window.Worker = function () {
    return new ByFile(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  };
}
