// Before the first paint: the theme that the reader chose. Not a module, as those run later.
"use strict";
(() => {
  let theme = null;
  try { theme = localStorage.getItem("fastlane.theme"); } catch { /* private window */ }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  document.documentElement.classList.add("scripted");
})();
