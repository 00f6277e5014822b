// What the browser remembers for the reader; nothing, in a private window.

/** @param {string} key @returns {string | null} */
export function recall(key) {
  try { return localStorage.getItem(`fastlane.${key}`); } catch { return null; }
}

/** @param {string} key @param {string | null} value */
export function remember(key, value) {
  try {
    if (value === null) localStorage.removeItem(`fastlane.${key}`);
    else localStorage.setItem(`fastlane.${key}`, value);
  } catch { /* private window */ }
}
