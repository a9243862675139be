"""From answers to rows, and from rows to tables, pages and figures."""
