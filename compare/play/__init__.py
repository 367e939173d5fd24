"""The playground: draw a digit in the browser and see the predictions of the three tracks."""
