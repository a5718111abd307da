"""Where a model came from: receipts, expressions as data, licences, ancestors and how they are drawn."""
