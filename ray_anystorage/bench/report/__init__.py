"""The report for people: words, tables and a page; pure."""
