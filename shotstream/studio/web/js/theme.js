// The chosen theme, set before the first paint; a classic script, because modules wait for the document.
document.documentElement.dataset.theme = localStorage.getItem("theme") ?? "auto";
