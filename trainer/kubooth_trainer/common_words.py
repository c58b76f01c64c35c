"""Short strings that already mean something, so that none of them becomes an identifier.

Read by `identifier` only. English words of one to three letters, the abbreviations and names that people use in
captions, and a few strings that nobody wants to read beside a photo of theirs. All lower case.
"""

from __future__ import annotations

SHORT_WORDS = frozenset(
    """
a i o ah ai am an as at aw ax be by do eh er ex go ha he hi hm ho id if in is it la lo ma me mr ms mu my na no nu
of oh ok on op or ow ox oz pa pi re sh so ta ti to uh um up us we wo ye yo

abs ace act add ado aft age ago aha aid ail aim air aka ale all alp alt amp and ant any ape app apt arc are ark arm
art ash ask asp ate auk aux ave awe awl awn axe aye baa bad bag bah ban bap bar bat bay bed bee beg bel ben bet bey
bib bid big bin bio bit bob bod bog bon boo bop bow box boy bra bub bud bug bum bun bus but buy bye cab cad cam can
cap car cat caw cay chi cob cod cog con coo cop cot cow cox coy cry cub cud cue cup cur cut dab dad dag dam day deb
den dew did die dig dim din dip doc doe dog don dot dry dub dud due dug dun duo dye ear eat ebb eek eel egg ego eke
elf elk elm emu end eon era ere erg err eve ewe eye fab fad fan far fat fax fay fed fee fen few fey fez fib fie fig
fin fir fit fix flu fly fob foe fog fop for fox fro fry fun fur gab gad gag gal gap gas gel gem get gig gin gnu goo
got gum gun gut guy gym had hag hah ham hap has hat hay hem hen her hew hex hey hid him hip his hit hob hod hoe hog
hop hot how hub hue hug huh hum hut ice icy ill imp ink inn ion ire irk its ivy jab jag jam jar jaw jay jet jib jig
job jog jot joy jug jut keg ken key kid kin kip kit koi lab lac lad lag lap law lax lay lea led lee leg lei let lid
lie lip lit lob log loo lop lot low lug lux lye mac mad man map mar mat maw max may men met mew mid mix mob mod mom
moo mop mow mud mug mum nab nag nap nay net new nib nil nip nit nod nog nor not now nub nun nut oaf oak oar oat odd
ode off oft ohm oil old one opt orb ore our out ova owe owl own pad pal pan pap par pat paw pay pea peg pen pep per
pet pew pic pie pig pin pit ply pod pop pot pow pox pro pry pub pug pun pup pus put rag ram ran rap rat raw ray red
ref rep rib rid rig rim rip rob roc rod roe rot row rub rue rug rum run rut rye sac sad sag sap sat saw sax say sea
see set sew she shy sin sip sir sit six ska ski sky sly sob sod son sop sot sow soy spa spy sub sue sum sun sup tab
tad tag tan tap tar tat tax tea tee ten the tic tie tin tip toe tog tom ton too top tot tow toy try tub tug tun tux
two ugh urn use van vat vet vex via vie vim vow wag wan war was wax way web wed wee wet who why wig win wit woe wok
won woo wow yak yam yap yay yea yen yep yes yet yew yip you yum zap zen zip zoo

cant didnt dont ive thats wont

aaa abc abu aco acl adm aes afc aft aia aids aim alc ama amd amc ana aol api arm asp atl atm bbc bbq bce bcc bff bjp
blm bmw bmx bpm brb brt bst btc bts btw ceo cfo cgi cia cms cnc cnn cpr cpu cst css ctv cvs dbz dea def dev dfw dhl
diy dlc dls dms dmv dna dns dnd dos dps dsl dtm dvd dvr ecg edm eeg efl esp esq est etc eth eur faa fab faq fbi fcc
fda fed fha fic fml fom fps frs fsu ftp ftw fyi gba gbp gcc gif gis gmc gmo gmt gmb god goo gop gov gps gpu gta gti
gtr hbd hbo hcl hdd hdr hiv hmm hmu hmv hov hps hrs hsv htc htm html http hvy ibm icu idk iii imo inc inf int ios ipa
ipl irl ira irs isa iso isp ist its jax jbl jfk jpg jpn jpeg kfc kgb kgs kia kkr kls kms kmh kph lax lbs lcd led lfc
lgb llc lmk lol lsd lsu ltd lte lvl mac mba mcu mdf mfa mgm mgr mia mic mit mlb mlk mlm mls mma mmm mms mph mri mrs
mtb mtg mtn mtv mvp nab nba nbc nct ndp nfc nfl nft ngo nhl nhs nhk nib nsa nsw nyc nyt nyu nzd obs oem omg ops org
otp pbs pca pcb pcs pdf pdt phd php pgm pls plz pmo png ppl ppm pps ppt prs psa psd psg psi pst ptv pub pvc pwr qbs
qtr que rbc rcb rcs rds rec ref reg res rgb rip rnb rnr rpg rpm rss rsvp rtx rts sas sat sci sdk seo sfx sim sms snl
som spf sql sri srt srv ssd ssh ssl ssn std stl str suv svg svr svu swf swt syd tba tbh tbs tbt tcm tcp tcu tdi tgif
thx tks tla tlc tmi tmz tnt tnx tri tsa ttc ttl tts tur tvs twd twp txt ucl ufc ufo uhd ukr url usa usb usc usd usf
utc uti uva vcr vfx vip vhs vlc vpn vps vrs wcw wfp who wmv wrt wsj wto wtf wth wwe wwf wwi www xbox xml xls xxx yds
yrs yvr yyc yyz zip zzz

abe ada aja ala ali amy ann art asa ava ben bea bob cal cam dan deb dee del des dom don dot ed ela eli ella ema emma
eva eve fay flo gus guy hal han hua ian ida ira iva ivy jan jay jed jen jim jin joe jon joy kai kat kay ken kim kit
kyo lee len leo les lev lex lia lin liv liz lou lua lucy luc luz lyn mae mai mao max may meg mel mia min moe mya nan
nat ned nia noa ola ora pam pat peg pia rae raj ray rex ria rio rob rod roy sal sam sid sky stu sue tam tao ted tia
tim tod tom val vic viv wes xia xiu yan yao yen yin yue zac zak zia zoe
""".split()  # noqa: SIM905 - five hundred quotes and commas would hide the words
)
"""Real words, abbreviations and names: a model has met each of them with pictures."""

UNWANTED = frozenset(
    """
abo ass bbw bum cnt cok coc cox cum dic dik dix dyk fag fap fat fck fcu fgt fkn fku fuk fuc fux gae gay gey gfy gok
god hiv hoe hor iud jap jew jiz kaf kfr kkk kkkk kys lez lsb mlf mof nad naz nazi ngr nga nig nip ntz ntr orl pak
pee pis pms poo poz psy pus rap sex sht shz ss sob std stfu suk tit tlt tts twa ugl vag vgn wog wop wtf xxx yid
""".split()  # noqa: SIM905 - five hundred quotes and commas would hide the words
)
"""Slurs, body words, and short forms of either."""
