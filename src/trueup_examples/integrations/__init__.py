"""How a web application asks trueup: the same order view in Flask and in Django, with one shared client."""
