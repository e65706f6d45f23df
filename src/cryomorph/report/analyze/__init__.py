"""The report of `cryomorph analyze`: one file for each section; `page` puts them together."""
