"""The playground: draw a digit in the browser and see the three tracks answer."""
