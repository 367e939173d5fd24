def describe(comparison, a, b, of_a, parting, rows):
    return "", ""
