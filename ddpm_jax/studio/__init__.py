"""A web page on this machine, on which people watch their runs train and draw."""
