"""Changes of what may change money, as proposals that k of n operators sign.

documents   the governed documents: what each kind may say, its canonical bytes and its first version
fields      reading a document's members, with a JSON pointer to what is wrong
statements  what is signed, and whose valid signature an envelope bears
refusals    why something is refused: one code and one text each
state       proposals, votes and versions, and how each event changes them
commands    what can be asked, and how an envelope becomes a command
decide      which events follow from a command
history     the whole chain of versions, replayed from its first
"""
