// Sets the theme before the first paint; a classic script, because modules are deferred.
document.documentElement.dataset.theme = localStorage.getItem("theme") ?? "auto";
