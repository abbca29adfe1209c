"""What tells content from furniture: names, phrases and thresholds, as data, with the reason beside each.

Nothing here names a site. Names are matched in ``class`` and ``id``, where authors say what a part is for
(Readability and trafilatura keep such lists too); phrases are matched at the start of short lines.
"""

import re

# -- tags ---------------------------------------------------------------------------------------------

OFF_TAGS = frozenset("nav aside footer dialog menu select optgroup option textarea search".split())
OFF_ROLES = frozenset(
    "navigation complementary contentinfo search dialog alertdialog menu menubar toolbar tablist banner"
    " tooltip alert".split()
)
CONTENT_TAGS = frozenset(("article", "main"))
CONTENT_ROLES = frozenset(("main", "article"))
CONTENT_PROPERTIES = frozenset(("articlebody", "text"))  # schema.org microdata
BYLINE_PROPERTIES = frozenset(("author", "datepublished", "datemodified"))
# Tags that only group what is in them: one of these can be the container of an article.
CONTAINERS = frozenset("div section article main td form fieldset header center details".split())
HEADINGS = {f"h{n}": n for n in range(1, 7)}
# Inside the container, text in one of these was written as text, however short it is.
WRITTEN = frozenset("p li dd dt pre blockquote td th figcaption caption listing summary".split())
LISTS = frozenset(("ul", "ol", "dl"))

# -- names --------------------------------------------------------------------------------------------

# Parts of names long enough not to occur inside other words.
_OFF_PARTS = (
    "sidebar side-bar side_bar footer masthead breadcrumb newsletter subscri sponsor advert adsense"
    " related recommend popular trending social sharing sharebar share-button sharetool cookie consent"
    " gdpr signup sign-up sign_up popup pop-up modal overlay toolbar paginat navbar navigation navbox"
    " topnav subnav menu outbrain taboola widget-area widgetarea footer-widget sidebar-widget widget_"
    " recent-posts teaser readmore read-more read_more morefrom more-from more-stories most-read"
    " mostread skip-link skiplink screen-reader-text visually-hidden sr-only author-bio authorbio"
    " about-author author-info author_info author-box jump-to jumpto printfriendly print-only noprint"
    " catlinks editsection donate carousel ticker follow-us feedback copyright site-header siteheader"
    " global-header page-header-nav dropdown tooltip lightbox shopping-cart upsell up-next upnext"
    " also-like see-also-list onward endnote-nav prevnext prev-next post-nav postmeta post-meta"
    " entry-meta article-meta meta-data metadata hashtag tagcloud tag-list taglist tags-links post-tags"
    " entry-tags article-tags"
).split()
# Names that must stand as words of their own.
_OFF_WORDS = (
    "promo promos promotion promoted ad ads adv ad1 ad2 advt nav share shares sharing tags rss tool"
    " tools rail legal banner pager login logo reactions rating ratings vote votes likes tweet facebook"
    " twitter hidden aside"
).split()
# Parts that can be longer than the text they belong to.
ASIDE_NAMES = re.compile(r"comment|gallery|slideshow|disqus|respond|discussion|replies|shoutbox|livefyre")
OFF_NAMES = re.compile(
    "|".join(map(re.escape, _OFF_PARTS)) + r"|(?<![a-z])(?:" + "|".join(_OFF_WORDS) + r")(?![a-z0-9])"
)
# The layout of what is around, not what the element itself is: "has-sidebar", "no-comments", "with-ads".
LAYOUT_NAMES = re.compile(r"(?<![a-z])(?:has|no|with|without|hide|show|enable|is|js)[-_][\w-]*")
CONTENT_NAMES = re.compile(
    r"article|(?<![a-z])(?:post|story|entry|main|text|prose|markdown)|content|body(?![a-z])|blog"
)
BYLINE_NAMES = re.compile(
    r"byline|dateline|timestamp|pubdate|publish|posted"
    r"|(?<![a-z])(?:author|authors|date|time|credit)(?![a-z])"
)

# -- phrases ------------------------------------------------------------------------------------------

# A short line or heading that opens with one of these starts a part that is not the text. In the languages of
# most of the web; other pages have only their names and links to go by.
_OFF_OPENINGS = (
    r"(?:you|we) (?:may|might|could|will|think you).{0,12} (?:like|enjoy)|read (?:more|next|also)\b"
    r"|more (?:from|on|stories|news|in)\b"
    r"|most (?:read|popular|viewed|shared|commented)|popular (?:posts|stories|articles|on|in)"
    r"|latest (?:news|stories|posts|articles|from)"
    r"|recent (?:posts|articles|stories|comments)"
    r"|related (?:articles?|stor|posts?|content|links?|topics?|news|reading|coverage|items|pages)"
    r"|recommended (?:for|reading|stories|articles|videos)|trending (?:now|on|stories|in)|see also:"
    r"|share (?:this|on|via)|follow us|follow \w+ on"
    r"|sign up (?:for|to|here)|subscribe (?:to|now|for)|get the latest"
    r"|join the (?:conversation|discussion)|leave a (?:comment|reply)"
    r"|(?:\d[\d,.]*|add a|post a|view|show|view all|all|load|load more|no|write a)"
    r" (?:comments?|repl(?:y|ies)|responses?)\b"
    r"|about the author"
    r"|filed under|tagged|tags?:|categor(?:y|ies):|posted in|topics?:|next (?:post|article|story)"
    r"|previous (?:post|article|story)"
    r"|(?:we|this (?:web)?site) uses? cookies|by (?:using|continuing).{0,40}cookies"
    r"|accept (?:all )?cookies|cookie (?:policy|settings|preferences)"
    r"|skip to|jump to (?:nav|search|content)|copyright (?:©|\(c\)|\d)|©|all rights reserved"
    r"|(?:print|e-?mail|save) this|click here to|back to top"
    r"|(?:please )?(?:log ?in|sign in|register) (?:or|to)|continue reading|story continues"
    r"|add to (?:cart|basket|bag|wish ?list)|buy now\b|article continues|scroll (?:down )?to continue"
    # German, French, Spanish, Portuguese, Italian, Dutch, Polish, Czech
    r"|mehr zum thema|lesen sie (?:auch|mehr)|auch interessant|das könnte sie|zum thema"
    r"|artikel (?:teilen|drucken)|(?:à )?lire aussi|sur le même sujet"
    r"|les plus lus|(?:lea|lee|leé|ver) también|te puede interesar|más (?:noticias|leídas)"
    r"|leia (?:mais|também)|veja (?:mais|também)|mais lidas"
    r"|leggi (?:anche|tutto)|potrebbe interessarti|lees ook|deel dit|czytaj (?:także|też|więcej)"
    r"|zobacz (?:także|też)|čtěte také"
    # Russian, Chinese, Japanese, Korean
    r"|читайте (?:также|ещё)|相关(?:阅读|新闻|文章|链接|推荐)|推荐阅读|责任编辑|分享到"
    r"|版权(?:所有|声明)|相關(?:新聞|文章)|延伸閱讀"
    r"|関連(?:記事|リンク|ニュース)|おすすめ(?:記事|の)|人気記事|관련 ?기사"
)
# Lines that are one of these and nothing else.
_OFF_LINES = (
    "related|recommended|trending|popular|comments?|responses|replies|reply|share|tweet|print|e-?mail"
    "|pin it|like|save|tags|newsletter|subscribe"
    "|sign up|log ?in|sign in|advertisements?|advertising|sponsored(?: content)?|promoted|more|next"
    "|previous|prev|menu|search|close|loading"
    "|see also|back|top|home|permalink|follow|facebook|twitter|linkedin|pinterest|reddit|whatsapp"
    "|instagram|youtube|shares?"
    "|anzeige|werbung|kommentare|teilen|publicité|commentaires|partager|publicidad|comentarios"
    "|compartir|publicidade|comentários|compartilhe"
    "|compartilhar|pubblicità|commenti|condividi|reacties|advertentie|komentarze|reklama|komentáře"
    "|diskuse|комментарии|поделиться|реклама"
    "|评论|广告|留言|コメント|シェア|댓글|공유"
)
OFF_OPENING = re.compile(rf"(?:[^\w©]|_)*+(?:{_OFF_OPENINGS})", re.I)
OFF_LINE = re.compile(rf"[\W\d_]*+(?:{_OFF_LINES})[\W\d_]*+\Z", re.I)
# Comments need no links to be told from a chapter.
ASIDE_LINE = re.compile(
    r"comment|repl(?:y|ies)|response|discussion|kommentar|reacties|koment|diskuse|комментари|评论|留言|コメント|댓글",
    re.I,
)
# "More on arches was written later." opens so, and is of the text.
FULL_SENTENCE = 5  # words, up to a full stop
OFF_LINE_WORDS = 12  # a longer line that opens so is a sentence of the text

# A line with two of these is a notice about the site, if it stands outside the text.
NOTICE = re.compile(
    r"cookies?\b|\bconsent|privacy (?:policy|notice|statement)|personal data|personal information"
    r"|terms of (?:use|service)"
    r"|javascript|ad[- ]?block|subscri|newsletter|sign up|log ?in|all rights reserved|©|copyright"
    r"|registered|\baccept\b"
    r"|datenschutz|einwilligung|confidentialité|privacidad|privacidade|персональных данных|隐私"
    r"|プライバシー",
    re.I,
)

# -- thresholds ---------------------------------------------------------------------------------------

SENTENCE = re.compile(r"[.!?…:;,](?=[\s\"'”’»)\]]|\Z)|[。！？，、；।؟،۔]")
MIN_WORDS = 8  # a line of fewer words says little by itself: menus, dates and buttons are that short
FULL_WORDS = 30  # one of more is prose beyond doubt; teasers are shorter, so they weigh less per word
MAX_LINK_SHARE = 0.5  # more letters inside links than outside: a line to click on, not to read
ALL_LINK = 0.9  # nothing but a link, up to a bullet or a date
MENU_WORDS = 4  # entries of menus are shorter than this on average; titles and names of products are longer
BYLINE_WORDS = 20  # authors, dates and credits are shorter
NAME_PARTS = 3  # an id of more parts is made from a heading, and says what a section is about
HALF = 0.5  # a part with more than this share of a page's prose is no furniture, whatever it is called
MIN_PROSE = 60  # words; with less than this beside them, comments are what the page is about
TEASER_WORDS = 50  # the lines under a linked heading hold no more, if they only tease,
TEASERS = 3  # and that many follow each other
SECTION_LINKS = 0.1  # a "related" section without this share of letters in links is a chapter of the text
SECTION = 0.2  # a "related" section, or teasers, with more than this share of the prose are the text

NAMED = 1.25  # a vote for an element counts so much more when it is named as the content
WIDEN = 0.1  # a wider container must add this share of prose,
WIDEN_PURE = 0.02  # or this one, when hardly anything else comes with it (PURE),
PURE = 0.9
WIDEN_OUT = 0.3  # or that one, when it leaves what is named as the content;
PURITY = 0.6  # and of the words it adds this share must be prose,
PURITY_TAGGED = 0.4  # or this one, when it is an <article> or <main>
MIN_MAIN = 0.3  # a container with a smaller share of the words that are no links, and
SHORT_ARTICLE = 200  # with fewer words of prose, does not stand out: the page is a list, a table or a forum

# -- scores -------------------------------------------------------------------------------------------

# Steps on a scale from 0 to 1, ordered by how sure they are; each favour is a threshold between two of them.
TEXT, PROSE = 0.85, 0.1  # inside the container; the second is added for prose
HEADLINE = 0.8
LOOSE = 0.6  # inside, but short and in no element for text: credits, labels, a heading over nothing
PAGE_TITLE = 0.45  # <title> repeats the headline and adds the site's name
WHO_AND_WHEN = 0.4
LINKS = 0.3
OUTSIDE = 0.2  # up to twice that for prose
FURNITURE = 0.05
FAVOUR = {"precision": 0.7, "balance": 0.5, "recall": 0.35}
