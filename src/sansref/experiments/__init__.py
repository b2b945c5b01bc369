"""What is made of finished runs: the demo, scores, tables, figures and reports."""
