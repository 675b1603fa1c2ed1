def configurations(s): return {}
def clients(s, rates): return {}
