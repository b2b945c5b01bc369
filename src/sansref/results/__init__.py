"""What is made of reconstructions: scores, statistics, tables, figures and the page that shows them."""
