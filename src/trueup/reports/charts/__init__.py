"""Charts as SVG that stands in a page: no script, no fetch, readable when printed and when read aloud."""
