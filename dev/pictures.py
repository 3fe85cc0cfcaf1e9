"""Pictures of a report for the docs, as a browser shows it: light, dark and on a telephone. Needs Chromium.

Usage: python dev/pictures.py REPORT.html [FOLDER]
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--hide-scrollbars", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
LIGHT, DARK = "--blink-settings=preferredColorScheme=1", "--blink-settings=preferredColorScheme=0"
PICTURES = {  # width and height in CSS pixels, scale, colour scheme, what is left out above
    "report-light.png": (1280, 2000, 0.75, LIGHT, ""),
    "report-dark.png": (1280, 2000, 0.75, DARK, "header, #comparison, #errors"),
    "report-phone.png": (360, 900, 2.0, LIGHT, "header, #comparison"),
}


def main(page: str, folder: str = "docs") -> None:
    """Take all pictures of one page."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"pictures: none of {', '.join(BROWSERS)} is installed; apt install chromium")
    html = Path(page).read_text(encoding="utf-8")
    Path(folder).mkdir(exist_ok=True)
    for name, (width, height, scale, scheme, hidden) in PICTURES.items():
        out = Path(folder).absolute() / name
        with tempfile.TemporaryDirectory() as profile:
            shown = Path(profile) / "page.html"
            style = f"<style>{hidden or '#none'} {{ display: none }}</style>"
            shown.write_text(html.replace("</head>", f"{style}</head>"), encoding="utf-8")
            size = (f"--window-size={width},{height}", f"--force-device-scale-factor={scale}")
            options = (*QUIET, f"--user-data-dir={profile}", scheme, *size, f"--screenshot={out}")
            subprocess.run([browser, *options, shown.as_uri()], check=True, capture_output=True, timeout=120)
        print(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
