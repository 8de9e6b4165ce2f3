"""See what a dictionary has learned: the pass over held-out tokens, the numbers of every feature, the site.

duck · manifest · store             what lies in `explore/`
harvest                             the one pass of the model
draw · feature · examples · windows   one feature, from its entries
coactivation · geometry · logits    features among each other, and what they promote
labels · member · about             in words; a member as a whole
derive · pages · publish · build    all of it, for every member: `unmix explore --build`
prompt · intervene · server         the page, served
terminal                            `unmix show`
"""
