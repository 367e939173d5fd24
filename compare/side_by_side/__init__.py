"""The sources of the three tracks on one page, aligned statement by statement, with what each line computed."""
