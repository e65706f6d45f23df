"""The report of `cryomorph landscape`: one file for each section; `page` puts them together."""
