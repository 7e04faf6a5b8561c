"""Words that tell how demanding a request is, in fifteen languages. Data for `complexity`.

A stem means every word that begins with it. Chinese, Japanese, Korean and Thai put no space between
words, so theirs count wherever they stand. Chosen by what the words mean, not fitted to a corpus;
tests/evaluation measures what they are worth.
"""

HARD = frozenset(
    """
    prove proof theorem lemma derive derivation rigorous formalize formalise
    architect redesign design optimi refactor debug diagnos deadlock concurren tradeoff
    implement algorithm complexity asymptot analy evaluat critique compare strateg
    investigat justify simulat distribut scalab migrat root-cause invariant counterexample
    bottleneck threat constraint multi-step

    beweis herleit leite entwirf entwerf entwickle architektur optimier vergleich bewert
    begründ strategie algorithmus abwäg fehlersuche implementier skalier migration
    ursache widerspruch

    démontr prouv dériv conçoi concevoir concev architectur évalu compar justifi stratég
    algorithm implément élabor optimis diagnostiqu

    demuestr demostr deriv diseñ arquitectur analiz evalú evalua justific estrateg algoritm
    implement optimiz depur diagnostic

    dimostr progett architettur valut confront giustific algoritm ottimizz analizz
    prove desenh projet projete arquitetur avali analis justifiqu algoritmo otimiz implemente

    bewijs ontwerp architectuur optimalis vergelijk beoordeel algoritme onderbouw analyseer

    udowodni dowód zaprojekt architektur zoptymaliz porówn uzasadni algorytm przeanaliz
    zaimplementuj oceń

    докаж доказ вывед спроектир разработай архитектур оптимизир проанализир сравни оцени
    обоснуй алгоритм реализуй стратеги

    kanıtla tasarla mimari optimize analiz karşılaştır değerlendir algoritma gerekçe uygula

    أثبت برهن صمم حلل قارن خوارزمية قيم استراتيجية حسّن برر اشتق

    सिद्ध विश्लेषण डिज़ाइन तुलना एल्गोरिथ्म अनुकूलित मूल्यांकन रणनीति प्रमाणित
    """.split()
)

TECHNICAL = frozenset(
    """
    kubernetes postgres database transaction consensus replicat latency throughput cache mutex
    compiler kernel thread async protocol cryptograph encrypt gradient transformer bayesian
    regression matrix eigen integral differential polynomial quantum thermodynam equilibrium
    microservice schema index shard raft paxos cuda gpu rust haskell typescript sql regulat
    liabilit contract jurisdiction pharmaco clinical statistic hypothes econom

    datenbank transaktion nebenläuf verschlüssel matrix statistik hypothese vertrag haftung
    données chiffrement matrice statistiqu hypothès contrat responsabilité
    datos transacción cifrado matriz estadístic hipótesis contrato
    dati transazion statistic ipotesi dados transaç estatístic
    баз транзакц шифрован матриц статистик гипотез договор
    """.split()
)

SIMPLE = frozenset(
    """
    hello hi hey thanks thank bye capital translate spell synonym antonym convert define
    definition rhyme joke plural pronounce uppercase lowercase timezone born greet weekday

    hallo danke tschüss hauptstadt übersetz buchstabier witz mehrzahl umrechn wochentag heißt
    bonjour salut merci capitale tradui épelle synonyme blague pluriel
    hola gracias adiós capital traduc traduce deletre sinónimo chiste plural
    ciao grazie capitale traduci sinonimo barzelletta plurale
    olá obrigad traduz sinônimo piada
    hoi dank hoofdstad vertaal grap meervoud
    cześć dzięk stolic przetłumacz żart
    привет спасибо столиц перевед синоним анекдот шутк
    merhaba teşekkür başkent çevir şaka
    مرحبا شكرا عاصمة ترجم نكتة
    नमस्ते धन्यवाद राजधानी अनुवाद चुटकुला
    """.split()
)

HARD_ANYWHERE = (
    "证明", "推导", "设计", "架构", "优化", "分析", "比较", "评估", "算法", "实现", "权衡",
    "论证",
    "証明", "導出", "設計", "アーキテクチャ", "最適化", "比較", "評価",
    "アルゴリズム", "実装", "考察",
    "증명", "유도", "설계", "아키텍처", "최적화", "분석", "비교", "평가",
    "알고리즘", "구현", "전략",
    "พิสูจน์", "ออกแบบ", "วิเคราะห์", "เปรียบเทียบ", "อัลกอริทึม",
)  # fmt: skip
SIMPLE_ANYWHERE = (
    "你好", "谢谢", "首都", "翻译", "笑话", "几点", "同义词",
    "こんにちは", "ありがとう", "首都は", "翻訳", "訳して", "冗談", "同義語",
    "안녕", "감사", "고마", "수도", "번역", "농담",
    "สวัสดี", "ขอบคุณ", "เมืองหลวง", "แปล",
)  # fmt: skip
