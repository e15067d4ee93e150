"""How fast is it? ``make bench``: one module per topic, each measured in a process of its own."""
