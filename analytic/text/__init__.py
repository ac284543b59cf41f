"""How the closed forms are written: text, LaTeX, source code."""
