"""What an order costs and who earns it, decided purely at purchase and frozen into its lines (ADR 0010).

``discounts`` says what a code takes off, ``taxes`` what a table of rates adds, ``terms`` what each line
then is.
"""
