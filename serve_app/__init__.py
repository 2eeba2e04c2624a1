"""HTTP: the ingress (routes, access, bounds, problems) and Finance's own service below ``finance``.

Start reading at ``app``; an operation's way is middleware -> operations (who may call) -> a route.
"""
